"""Trackers, by what they have of their own for TensorBoard, to which every run writes.

W&B and MLflow follow TensorBoard's writer while a run trains, Trackio reads the files when it has
ended. Accounts, servers and offline modes are theirs: ``WANDB_MODE``, ``MLFLOW_TRACKING_URI``,
``TRACKIO_DIR``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from era_rl.runs.settings import plain
from era_rl.sb3.run import Run

PROJECT = "era-rl"


@contextmanager
def tracked(tracker: str | None, run: Run, folder: Path) -> Iterator[None]:
    """Have a tracker follow the run that is trained within the block.

    Args:
        tracker: "wandb", "mlflow" or "trackio"; None for none.
        run: The run, whose settings are recorded.
        folder: Its folder; its last two names are the run's.
    """
    name = f"{folder.parent.name}-{folder.name}"
    settings = plain(asdict(run))
    if tracker == "wandb":
        wandb: Any = import_module("wandb")
        options = {"project": PROJECT, "name": name, "config": settings, "dir": str(folder)}
        with wandb.init(sync_tensorboard=True, **options):
            yield
    elif tracker == "mlflow":
        mlflow: Any = import_module("mlflow")
        import_module("mlflow.pytorch").autolog(log_every_n_step=1, log_models=False, silent=True)
        mlflow.set_experiment(PROJECT)
        with mlflow.start_run(run_name=name):
            mlflow.log_dict(settings, "settings.yml")
            yield
    else:
        trackio: Any = import_module("trackio") if tracker else None
        yield
        if trackio:
            trackio.import_tf_events(folder / "tensorboard", project=name)
