"""Trackers that follow a run offline, and the repository that ``era-zoo push`` writes."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from zoo_runs import SMALL, train

from era_rl.sb3 import SACERA
from era_rl.zoo import cli, push

TRACKED = ["--algo", "sac_era", "--env", "Pendulum-v1", "-n", "30", "--verbose", "0"]
SHORT = ["--eval-freq", "-1", "--env-kwargs", "max_episode_steps=5", "--params", *SMALL["sac_era"]]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SACERA, and one of RecurrentPPOERA."""
    folder = tmp_path_factory.mktemp("logs")
    for algo in ("sac_era", "recurrent_ppo_era"):
        assert train(folder, algo, 100) == 0  # logs are written at every fourth episode
    return folder


def pushed(logs: Path, algo: str, *options: str) -> Path:
    """Return the folder that a dry run wrote."""
    names = ["--algo", algo, "--env", "Pendulum-v1", "--runs", str(logs), "--episodes", "2"]
    assert cli.main(["push", *names, "--dry-run", *options]) == 0
    return logs / algo / "Pendulum-v1_1" / "hub"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio's pipes from ffmpeg
def test_push_writes_what_the_hub_and_rl_zoo3_expect(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Card with metrics, floor, price and settings; model, video and exported policy beside it."""
    monkeypatch.setattr(push, "HfApi", None)  # a dry run asks for none
    folder = pushed(logs, "sac_era", "--video-steps", "5", "--repo", "someone/agent")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("README.md", "results.json", "replay.mp4", "policy.onnx", "policy.onnx.json"),
        *("sac_era-Pendulum-v1.zip", "args.yml", "config.yml", "env_kwargs.yml"),
        "train_eval_metrics.zip",
    }
    results = json.loads((folder / "results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results is not None
    (evaluation,) = card.data.eval_results
    assert evaluation.metric_value.startswith(f"{results['mean_reward']:.2f} +/- ")
    assert "| entropy floor of every state, nats | -0.5 |" in card.text
    assert "| price of the floor at the end, return a nat |" in card.text
    assert 'SACERA.load(load_from_hub("someone/agent", "sac_era-Pendulum-v1.zip"))' in card.text
    assert "max_episode_steps: 20" in card.text
    assert SACERA.load(folder / "sac_era-Pendulum-v1.zip").num_timesteps == 100
    with zipfile.ZipFile(folder / "train_eval_metrics.zip") as archive:
        assert {"evaluations.npz", "0.monitor.csv"} <= set(archive.namelist())


def test_what_cannot_be_exported_is_pushed_with_the_reason(logs: Path) -> None:
    """Beside it stays nothing of an earlier push: no policy or statistics of another agent."""
    folder = logs / "recurrent_ppo_era" / "Pendulum-v1_1" / "hub"
    folder.mkdir()
    for name in ("recurrent_ppo_era-Pendulum-v1.zip", *push.OPTIONAL):
        (folder / name).touch()
    assert pushed(logs, "recurrent_ppo_era", "--video-steps", "0") == folder
    assert not {path.name for path in folder.iterdir()} & {*push.OPTIONAL}
    card = (folder / "README.md").read_text()
    assert "There is no exported policy: model=RecurrentPPOERA cannot be exported" in card


def test_push_refuses_to_write_over_other_files(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").touch()
    names = ["--algo", "sac_era", "--env", "Pendulum-v1", "--runs", str(logs)]
    assert cli.main(["push", *names, "--out", str(tmp_path), "--dry-run"]) == 2
    assert "must be empty" in capsys.readouterr().err
    assert cli.main(["push", *names]) == 2
    assert "--repo must be given" in capsys.readouterr().err
    assert cli.main(["push", *names, "--repo", "my agent!"]) == 2
    assert "--repo 'my agent!' must be ORGANISATION/NAME" in capsys.readouterr().err


def test_push_uploads_the_folder(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Api:
        def create_repo(self, repo: str, exist_ok: bool) -> str:
            calls.append(repo)
            return f"https://hub/{repo}"

        def upload_folder(self, **kwargs: Any) -> None:
            calls.append(kwargs)

    monkeypatch.setattr(push, "HfApi", Api)
    monkeypatch.setattr(push, "package", lambda agent, folder: None)
    names = ["--algo", "sac_era", "--env", "Pendulum-v1", "--runs", str(logs)]
    assert cli.main(["push", *names, "--repo", "someone/agent"]) == 0
    folder = logs / "sac_era" / "Pendulum-v1_1" / "hub"
    files = {"folder_path": folder, "delete_patterns": [*push.OPTIONAL]}
    assert calls == ["someone/agent", {"repo_id": "someone/agent", **files}]


@pytest.mark.parametrize(
    "error",
    [OfflineModeIsEnabled("no network"), HfHubHTTPError.__bases__[0]("no network")],
    ids=["offline", "http"],
)
def test_an_upload_that_fails_is_a_line(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says that the folder is whole: the evaluation and the film are not lost."""

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(push.HfApi, "create_repo", fails)
    monkeypatch.setattr(push, "package", lambda agent, folder: None)
    names = ["--algo", "sac_era", "--env", "Pendulum-v1", "--out", str(tmp_path)]
    assert cli.main(["push", *names, "--repo", "someone/agent"]) == 2
    said = f"{tmp_path} is whole, but cannot be uploaded to someone/agent: no network\n"
    assert capsys.readouterr().err == f"era-zoo: {said}"


def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main(["train", *TRACKED, "-f", str(tmp_path), "--track", "wandb", *SHORT]) == 2
    assert "--track wandb needs the extra tracking" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wandb_gets_what_tensorboard_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra tracking is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert cli.main(["train", *TRACKED, "-f", str(tmp_path), "--track", "wandb", *SHORT]) == 0
    (file,) = (tmp_path / "sac_era").glob("*/wandb/offline-run-*/*.wandb")
    assert b"train/entropy_floor" in file.read_bytes()


@pytest.mark.slow
def test_mlflow_gets_what_tensorboard_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    assert cli.main(["train", *TRACKED, "-f", str(tmp_path), "--track", "mlflow", *SHORT]) == 0
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.run_name == "sac_era-Pendulum-v1_1"
    assert run.data.metrics["train/entropy_floor"] == -0.5


@pytest.mark.slow
def test_trackio_gets_what_tensorboard_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="the extra tracking is not installed")
    assert cli.main(["train", *TRACKED, "-f", str(tmp_path), "--track", "trackio", *SHORT]) == 0
    (run,) = trackio.SQLiteStorage.get_runs("sac_era-Pendulum-v1_1")
    rows = trackio.SQLiteStorage.get_logs("sac_era-Pendulum-v1_1", run)
    floors = [row["train/entropy_floor"] for row in rows if "train/entropy_floor" in row]
    assert np.allclose(floors, -0.5)
    assert floors
