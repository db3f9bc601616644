"""A trained agent as a repository of the Hugging Face Hub: model card, files, video, exported policy.

The files have the names that rl_zoo3 gives them, so that its ``download_from_hub`` makes a run's folder
of them again; the card is huggingface_hub's.
"""

import shutil
import sys
import zipfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from huggingface_sb3 import EnvironmentName, ModelName
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from era_rl.runs.folder import writable, write_json
from era_rl.runs.record import provenance
from era_rl.runs.settings import SettingsError
from era_rl.runs.yaml_files import write_mapping
from era_rl.sb3.export import export_policy
from era_rl.sb3.run import Run, agent_files
from era_rl.zoo.cli import Agent, Film, Push
from era_rl.zoo.commands import episodes, load, record_video, run_folder

PACKAGES = ("era-rl", "torch", "stable-baselines3", "sb3-contrib", "gymnasium")
LOGGED = {
    "train/entropy_mean": "mean entropy of the last batch, nats",
    "train/entropy_price": "price of the floor at the end, return a nat",
}
"""What training logs and the card says, by the name that it has there."""

FAILURES: Any = (OSError, *HfHubHTTPError.__bases__)
"""Of an upload; the bases are those of the Hub's HTTP library, whichever it is."""
OPTIONAL = ("policy.onnx", "policy.onnx.json", "replay.mp4", "vec_normalize.pkl")
"""Files that not every push has."""

CARD = """---
{{ card_data }}
---

# **{{ algorithm }}** on **{{ env }}**

An agent trained with era-rl.{% if floored %} Its policy has a minimum entropy in every state
([ERA](https://arxiv.org/abs/2510.08549)).{% endif %}

| | |
|---|---|
{% for name, value in figures.items() %}| {{ name }} | {{ value }} |
{% endfor %}
## Use

```python
from huggingface_sb3 import load_from_hub
from {{ module }} import {{ algorithm }}

# a model's file can run any code in it: load those that you trust
model = {{ algorithm }}.load(load_from_hub("{{ repo }}", "{{ file }}"))
```
{% if exported %}
`policy.onnx` is the deterministic action, from the environment's observations to its actions, for
onnxruntime alone; `policy.onnx.json` has inputs, outputs and units.
{% else %}
There is no exported policy: {{ reason }}.
{% endif %}
## Settings

```yaml
{{ settings }}```
"""


def push(agent: Push) -> None:
    """Write the repository's folder, and upload it unless it is a dry run."""
    if agent.repo is None and not agent.dry_run:
        raise SettingsError("--repo must be given, ORGANISATION/NAME, or --dry-run")
    try:
        validate_repo_id(agent.repo or "agent")
    except HFValidationError as error:
        raise SettingsError(f"--repo {agent.repo!r} must be ORGANISATION/NAME: {error}") from error
    folder = writable(agent.out or run_folder(agent) / "hub")
    package(agent, folder)
    sys.stdout.write(f"{folder}\n")
    if agent.repo is not None and not agent.dry_run:
        _upload(agent.repo, folder)


def _upload(repo: str, folder: Path) -> None:
    """Upload a folder, and remove what only an earlier push had; SettingsError where it fails."""
    api = HfApi()
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, delete_patterns=[*OPTIONAL])
    except FAILURES as error:
        raise SettingsError(
            f"{folder} is whole, but cannot be uploaded to {repo}: {error}"
        ) from error
    sys.stdout.write(f"{address}\n")


def package(agent: Push, folder: Path) -> None:
    """Write everything of a repository to a folder; SettingsError where it holds something else."""
    source, name = run_folder(agent), EnvironmentName(agent.env)
    file = ModelName(agent.algo, name).filename
    if any(folder.iterdir()) and not (folder / file).exists():
        raise SettingsError(f"--out {folder} must be empty, or a folder of an earlier push")
    for optional in OPTIONAL:  # an earlier push's, which may be of another agent
        (folder / optional).unlink(missing_ok=True)
    _copy(agent, source, folder, file)
    model, env = load(agent)
    with closing(env):
        results = _evaluated(agent, model, env)
        write_json(folder / "results.json", results)
        reason = _export(model, folder / "policy.onnx")
    if agent.video_steps > 0:
        same = {name: getattr(agent, name) for name in Agent.__dataclass_fields__}
        film = Film(**same, steps=agent.video_steps, out=folder)
        record_video(film).replace(folder / "replay.mp4")
    algorithm = type(model).__name__
    ModelCard.from_template(
        _metadata(agent, algorithm, results),
        template_str=CARD,
        algorithm=algorithm,
        module=type(model).__module__.split(".")[0],
        env=agent.env,
        floored=hasattr(model.policy, "target_entropy"),
        repo=agent.repo or f"ORGANISATION/{ModelName(agent.algo, name)}",
        file=file,
        figures=_figures(model, results, source),
        exported=not reason,
        reason=reason,
        settings=(folder / "config.yml").read_text(),
    ).save(folder / "README.md")


def _copy(agent: Push, source: Path, folder: Path, file: str) -> None:
    """Copy the model, its settings, and what it is normalised by; zip evaluations and episodes."""
    model, statistics = agent_files(source, agent.best)
    shutil.copy(model, folder / file)
    run = Run.read(source)
    for name in ("args.yml", "config.yml"):
        shutil.copy(source / run.name / name, folder / name)
    write_mapping(folder / "env_kwargs.yml", run.settings.get("env_kwargs", {}))
    if (moments := statistics / "vecnormalize.pkl").exists():
        shutil.copy(moments, folder / "vec_normalize.pkl")
    with zipfile.ZipFile(folder / "train_eval_metrics.zip", "w") as archive:
        for path in [*source.glob("evaluations.npz"), *source.glob("*.csv")]:
            archive.write(path, path.name)


def _evaluated(agent: Push, model: Any, env: Any) -> dict[str, Any]:
    returns, _ = episodes(agent, model, env)
    return {
        "mean_reward": float(np.mean(returns)),
        "std_reward": float(np.std(returns)),
        "is_deterministic": not agent.stochastic,
        "n_eval_episodes": agent.episodes,
        **provenance(PACKAGES),
    }


def _export(model: Any, path: Path) -> str:
    """Export the policy, or return why there is no exported one."""
    if find_spec("onnxscript") is None:
        return "the extra export was not installed"
    try:
        export_policy(model, path)
    except SettingsError as error:
        return str(error)
    return ""


def _figures(model: Any, results: dict[str, Any], source: Path) -> dict[str, str]:
    """Return what the card's table says, by name."""
    how = "deterministic" if results["is_deterministic"] else "sampled"
    mean, std = results["mean_reward"], results["std_reward"]
    figures = {
        f"return, {results['n_eval_episodes']} {how} episodes": f"{mean:.2f} ± {std:.2f}",
        "steps": f"{model.num_timesteps:,}",
    }
    if (floor := getattr(model.policy, "target_entropy", None)) is not None:
        figures["entropy floor of every state, nats"] = f"{floor:.4g}"
    logs = EventAccumulator(str(source / "tensorboard"))
    logs.Reload()
    for tag, name in LOGGED.items():
        if tag in logs.Tags()["scalars"]:
            figures[name] = f"{logs.Scalars(tag)[-1].value:.4g}"
    return figures


def _metadata(agent: Push, algorithm: str, results: dict[str, Any]) -> ModelCardData:
    evaluation = EvalResult(
        task_type="reinforcement-learning",
        dataset_type=agent.env,
        dataset_name=agent.env,
        metric_type="mean_reward",
        metric_value=f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}",
    )
    return ModelCardData(
        library_name="stable-baselines3",
        tags=[agent.env, "deep-reinforcement-learning", "reinforcement-learning", "era-rl"],
        model_name=algorithm,
        eval_results=[evaluation],
    )
