"""``era-zoo``: train, watch, evaluate, film, plot, tune and publish agents from configurations."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from era_rl.runs.agent import ALGORITHMS, AgentSettings, Seed
from era_rl.runs.command import Parser, add_arguments, exit_status, set_up_training
from era_rl.runs.settings import Setting, Settings, SettingsError, check_names

Runs = Annotated[Path, Setting("folder that holds the runs", short="f", was="log_folder")]
EnvKwargs = Annotated[tuple[str, ...], Setting("of gymnasium.make: KEY=VALUE, as YAML")]


@dataclass(frozen=True, kw_only=True)
class Train(Settings):
    """Where a run's settings come from, and its folder goes."""

    out: Annotated[Path, Setting("folder for the runs", short="f", was="log_folder")] = Path("logs")
    params: Annotated[tuple[str, ...], Setting("settings to change: KEY=VALUE, as YAML")] = ()
    env_kwargs: EnvKwargs = ()
    config: Annotated[Path | None, Setting("a YAML file instead of the zoo's")] = None


@dataclass(frozen=True, kw_only=True)
class Tracked(Train):
    """A run that trackers follow."""

    track: Annotated[
        Literal["wandb", "mlflow", "trackio"] | None, Setting("tracker that gets the logs too")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.track is not None and find_spec(self.track) is None:
            raise SettingsError(f"--track {self.track} needs the extra tracking")


@dataclass(frozen=True, kw_only=True)
class Tune(Train):
    """A search with Optuna."""

    n_trials: Annotated[int, Setting("trials", low=1)] = 100
    n_jobs: Annotated[int, Setting("trials at a time", low=1)] = 1
    n_startup_trials: Annotated[int, Setting("random trials at first", low=1)] = 10
    n_evaluations: Annotated[int, Setting("evaluations of a trial", low=1)] = 4
    sampler: Annotated[Literal["tpe", "random"], Setting("what draws settings")] = "tpe"
    pruner: Annotated[Literal["median", "halving", "none"], Setting("what ends trials")] = "median"
    storage: Annotated[
        str | None, Setting("Optuna's data base, or a .log file, to share or go on")
    ] = None
    study_name: Annotated[str | None, Setting("name of the study in the data base")] = None


@dataclass(frozen=True, kw_only=True)
class Agent(Settings):
    """A trained agent, and how it acts."""

    algo: Annotated[str, Setting("algorithm: see era-zoo list")]
    env: Annotated[str, Setting("gymnasium id")]
    runs: Runs = Path("logs")
    exp_id: Annotated[int, Setting("number of the run; 0: the latest", low=0)] = 0
    best: Annotated[bool, Setting("the agent of the best evaluation")] = False
    stochastic: Annotated[bool, Setting("sampled actions, not the mode")] = False
    seed: Seed = 0
    device: Annotated[str, Setting("torch device")] = "auto"
    env_kwargs: EnvKwargs = ()


@dataclass(frozen=True, kw_only=True)
class Enjoy(Agent):
    """An agent that is watched."""

    steps: Annotated[int, Setting("steps to play", low=1, short="n", was="n_timesteps")] = 1_000
    render: Annotated[bool, Setting("in a window, where there is a display")] = True


@dataclass(frozen=True, kw_only=True)
class Evaluate(Agent):
    """An agent that is measured."""

    episodes: Annotated[int, Setting("episodes", low=1)] = 10


@dataclass(frozen=True, kw_only=True)
class Film(Agent):
    """An agent that is filmed."""

    steps: Annotated[int, Setting("steps to film", low=1, short="n", was="n_timesteps")] = 300
    out: Annotated[
        Path | None, Setting("default: videos in the run", short="o", was="output_folder")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Export(Agent):
    """An agent that leaves the zoo."""

    out: Annotated[Path, Setting("file to write: .onnx, or .pt2", short="o")] = Path("policy.onnx")


@dataclass(frozen=True, kw_only=True)
class Push(Evaluate):
    """An agent that is published."""

    repo: Annotated[str | None, Setting("repository of the Hub, ORGANISATION/NAME")] = None
    out: Annotated[Path | None, Setting("default: hub in the run", short="o")] = None
    video_steps: Annotated[int, Setting("steps to film; 0: none", low=0)] = 300
    dry_run: Annotated[bool, Setting("write the folder, and upload nothing")] = False


@dataclass(frozen=True, kw_only=True)
class Plot(Settings):
    """Runs that are drawn."""

    algo: Annotated[tuple[str, ...], Setting("algorithms, one curve each")]
    env: Annotated[tuple[str, ...], Setting("gymnasium ids, side by side")]
    what: Annotated[
        Literal["return", "entropy", "std"], Setting("returns, or a figure of each dimension")
    ] = "return"
    runs: Runs = Path("logs")
    out: Annotated[Path, Setting("file to write", short="o", was="output")] = Path("curves.png")


@dataclass(frozen=True, kw_only=True)
class Listing(Settings):
    """What the zoo has."""

    algo: Annotated[str | None, Setting("one algorithm alone")] = None


# command: help, function, what it takes, MuJoCo's OpenGL: loaded where frames are wanted, and without
# a display its default fails
COMMANDS: dict[str, tuple[str, str, type[Settings], str]] = {
    "train": ("train an agent, or go on with a killed run", "commands.train", Tracked, "disabled"),
    "tune": ("search for settings with Optuna", "tune.tune", Tune, "disabled"),
    "enjoy": ("play a trained agent, in a window if possible", "commands.enjoy", Enjoy, "glfw"),
    "evaluate": ("mean return of a trained agent", "commands.evaluate", Evaluate, "disabled"),
    "record-video": ("film a trained agent", "commands.record_video", Film, "egl"),
    "push": ("publish a trained agent on the Hugging Face Hub", "push.push", Push, "egl"),
    "export": ("a trained agent as one ONNX file", "commands.export", Export, "disabled"),
    "plot": ("learning curves of trained agents", "plot.plot", Plot, "disabled"),
    "list": (
        "algorithms and the environments they are set for",
        "commands.show",
        Listing,
        "disabled",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2, with a line of text, for what is unknown."""
    set_up_training()
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        return exit_status("era-zoo", lambda: check_names("command", words[:1], COMMANDS))
    given = vars(parser().parse_args(words))
    command = given.pop("command")
    _, place, kind, gl = COMMANDS[command]
    if sys.platform == "linux" and not (gl == "glfw" and has_display()):
        os.environ.setdefault("MUJOCO_GL", "disabled" if gl == "glfw" else gl)

    def run() -> None:
        own, agent = _split(kind, given, command)
        module, function = place.split(".")
        getattr(import_module(f"era_rl.zoo.{module}"), function)(own, **agent)

    go_on = "the last checkpoint is whole; to go on: era-zoo train --resume RUN_FOLDER"
    advice = f"; {go_on}" if command == "train" else ""
    return exit_status("era-zoo", run, (SettingsError,), advice, "bench")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; its namespace has what is given, and no defaults."""
    top = Parser(prog="era-zoo", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (about, _, kind, _) in COMMANDS.items():
        command = commands.add_parser(name, help=about)
        if name == "train":
            command.add_argument(
                "--resume",
                type=Path,
                metavar="RUN_FOLDER",
                default=argparse.SUPPRESS,
                help="go on from the run's last checkpoint, with the settings it began with; with -n, "
                "up to that many steps, also where it has ended",
            )
        add_arguments(command, kind)
        if issubclass(kind, Train):
            add_arguments(command, AgentSettings, {"settings"})
    return top


def has_display() -> bool:
    """Return whether there is a display; systems other than Linux are taken to have one."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def _split(
    kind: type[Settings], given: dict[str, Any], command: str
) -> tuple[Settings, dict[str, Any]]:
    """Return a command's settings and the arguments of a run; wrong names cost no slow imports."""
    algos = given.get("algo", ())
    check_names("--algo", [algos] if isinstance(algos, str) else algos, ALGORITHMS)
    if "resume" in given:
        if others := sorted(given.keys() - {"resume", "progress", "steps"}):
            raise SettingsError(
                "--resume goes on with what the run began with: leave out "
                + ", ".join(f"--{name.replace('_', '-')}" for name in others)
            )
    elif command != "list" and not {"algo", "env"} <= given.keys():
        raise SettingsError("--algo and --env must be given (or --resume, with train)")
    own = {name: given[name] for name in kind.__dataclass_fields__.keys() & given.keys()}
    return kind(**own), {name: value for name, value in given.items() if name not in own}


if __name__ == "__main__":
    sys.exit(main())
