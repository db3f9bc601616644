"""``era-zoo``: train, watch, evaluate, film, plot and tune agents from configurations."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from era_rl.zoo.algorithms import ALGORITHMS
from era_rl.zoo.display import has_display
from era_rl.zoo.names import ConfigError, check_names

GYM_PACKAGES = "modules to import that register environments"
GO_ON = "go on with: era-zoo train --resume RUN_FOLDER"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2, with a line of text, for what is unknown."""
    args = parser().parse_args(argv)
    module, function, gl = args.__dict__.pop("command")
    trains = function == "train"
    if sys.platform == "linux" and not (gl == "glfw" and has_display()):
        os.environ.setdefault("MUJOCO_GL", "disabled" if gl == "glfw" else gl)
    try:
        _check(args)
        getattr(import_module(module), function)(args)
    except ConfigError as error:
        sys.stderr.write(f"era-zoo: {error}\n")
        return 2
    except FloatingPointError as error:
        sys.stderr.write(f"era-zoo: {error}\n")
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        advice = f": the last checkpoint is whole; make room, then {GO_ON}" if trains else ""
        sys.stderr.write(f"era-zoo: {error}{advice}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"era-zoo: interrupted{f'; to {GO_ON}' if trains else ''}\n")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="era-zoo", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    # mujoco's OpenGL is loaded where frames are wanted; without a display its default fails
    _add_train(commands).set_defaults(command=("era_rl.zoo.train", "train", "disabled"))
    _add_tune(commands).set_defaults(command=("era_rl.zoo.train", "tune", "disabled"))
    _add_enjoy(commands).set_defaults(command=("era_rl.zoo.agent", "enjoy", "glfw"))
    _add_evaluate(commands).set_defaults(command=("era_rl.zoo.agent", "evaluate", "disabled"))
    _add_record_video(commands).set_defaults(command=("era_rl.zoo.agent", "record_video", "egl"))
    _add_plot(commands).set_defaults(command=("era_rl.zoo.plot", "plot", "disabled"))
    listing = commands.add_parser("list", help="algorithms and the environments they are set for")
    listing.add_argument("--algo", help="of one algorithm alone")
    listing.set_defaults(command=("era_rl.zoo.listing", "show", "disabled"))
    return top


def _add_train(commands: Any) -> argparse.ArgumentParser:
    train = commands.add_parser("train", help="train an agent, or go on with a killed run")
    train.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_FOLDER",
        help="go on from the run's last checkpoint, with the settings it began with",
    )
    _add_run(train)
    train.add_argument(
        "--eval-freq", type=int, default=25_000, help="steps between evaluations; below 1: none"
    )
    train.add_argument(
        "--save-freq", type=positive_int, default=25_000, help="steps between checkpoints"
    )
    return train


def _add_tune(commands: Any) -> argparse.ArgumentParser:
    tune = commands.add_parser("tune", help="search for settings with Optuna")
    _add_run(tune)
    tune.add_argument("--n-trials", type=positive_int, default=100)
    tune.add_argument("--n-jobs", type=positive_int, default=1, help="trials at a time")
    tune.add_argument(
        "--n-startup-trials", type=positive_int, default=10, help="random trials at first"
    )
    tune.add_argument(
        "--n-evaluations", type=positive_int, default=4, help="evaluations of a trial"
    )
    tune.add_argument("--sampler", default="tpe", choices=["tpe", "random"])
    tune.add_argument("--pruner", default="median", choices=["median", "halving", "none"])
    tune.add_argument("--storage", help="Optuna's data base, or a .log file, to share or go on")
    tune.add_argument("--study-name")
    return tune


def _add_enjoy(commands: Any) -> argparse.ArgumentParser:
    enjoy = commands.add_parser("enjoy", help="play a trained agent, in a window if possible")
    _add_agent(enjoy)
    enjoy.add_argument("-n", "--n-timesteps", type=positive_int, default=1_000)
    enjoy.add_argument("--no-render", action="store_true", help="without a window")
    return enjoy


def _add_evaluate(commands: Any) -> argparse.ArgumentParser:
    evaluate = commands.add_parser("evaluate", help="mean return of a trained agent")
    _add_agent(evaluate)
    evaluate.add_argument("--episodes", type=positive_int, default=10)
    return evaluate


def _add_record_video(commands: Any) -> argparse.ArgumentParser:
    record = commands.add_parser("record-video", help="film a trained agent")
    _add_agent(record)
    record.add_argument("-n", "--n-timesteps", type=positive_int, default=300)
    record.add_argument("-o", "--output-folder", type=Path, help="default: videos in the run")
    return record


def _add_plot(commands: Any) -> argparse.ArgumentParser:
    plot = commands.add_parser("plot", help="learning curves of trained agents")
    plot.add_argument("--algo", nargs="+", required=True)
    plot.add_argument("--env", nargs="+", required=True, help="gymnasium ids, side by side")
    plot.add_argument("-f", "--log-folder", type=Path, default=Path("logs"))
    plot.add_argument("-o", "--output", type=Path, default=Path("curves.png"))
    plot.add_argument("--gym-packages", nargs="+", default=[], help=GYM_PACKAGES)
    return plot


def _add_run(command: argparse.ArgumentParser) -> None:
    """Add the arguments of what trains."""
    _add_names(command, required=False)
    command.add_argument(
        "-n", "--n-timesteps", type=positive_int, help="instead of the configuration's"
    )
    command.add_argument("--n-envs", type=positive_int, help="instead of the configuration's")
    command.add_argument("--vec-env", default="dummy", choices=["dummy", "subproc"])
    command.add_argument(
        "--params", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change, as YAML"
    )
    command.add_argument("--config", type=Path, help="a YAML file instead of the zoo's")
    command.add_argument(
        "--eval-episodes", type=positive_int, default=10, help="episodes an evaluation"
    )
    command.add_argument(
        "--num-threads", type=int, default=0, help="of torch; below 1: its own choice"
    )
    command.add_argument("--verbose", type=int, default=1, choices=[0, 1, 2])
    command.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, default=sys.stderr.isatty()
    )


def _add_agent(command: argparse.ArgumentParser) -> None:
    """Add the arguments of what uses a trained agent."""
    _add_names(command, required=True)
    command.add_argument("--exp-id", type=int, default=0, help="number of the run; 0: the latest")
    command.add_argument("--best", action="store_true", help="the agent of the best evaluation")
    command.add_argument("--stochastic", action="store_true", help="sampled actions, not the mode")


def _add_names(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("--algo", required=required, help="see era-zoo list")
    command.add_argument("--env", required=required, help="gymnasium id")
    command.add_argument("-f", "--log-folder", type=Path, default=Path("logs"))
    command.add_argument("--seed", type=seed, default=0)
    command.add_argument("--device", default="auto", help="torch device")
    command.add_argument(
        "--env-kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="for gymnasium.make"
    )
    command.add_argument("--gym-packages", nargs="+", default=[], help=GYM_PACKAGES)


def _check(args: argparse.Namespace) -> None:
    """Refuse names of algorithms and environments that do not exist, before the slow imports."""
    algo, env = getattr(args, "algo", None), getattr(args, "env", None)
    if getattr(args, "resume", None) is not None:
        _check_resume(args)
        return
    if "seed" in args and (algo is None or env is None):
        raise ConfigError("--algo and --env must be given (or --resume, with train)")
    check_names("--algo", _listed(algo), ALGORITHMS)
    if env is not None:
        import gymnasium

        import era_rl.envs  # noqa: F401 (registers ids)

        import_packages(args.gym_packages)
        check_names("--env", _listed(env), gymnasium.registry)
    if "device" in args:
        from era_rl.devices import check_device

        try:
            check_device(args.device)
        except ValueError as error:
            raise ConfigError(f"--device: {error}") from error


def _check_resume(args: argparse.Namespace) -> None:
    """Refuse options beside --resume, for the run has its own."""
    defaults = vars(parser().parse_args(["train"]))
    kept = {"resume", "progress"}
    given = [name for name, value in vars(args).items() if value != defaults[name]]
    if changed := [f"--{name.replace('_', '-')}" for name in given if name not in kept]:
        raise ConfigError(
            f"--resume goes on with what the run began with: leave out {', '.join(changed)}"
        )


def import_packages(names: Sequence[str]) -> None:
    """Import the modules that register environments; ConfigError for one that is not there."""
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"--gym-packages {name}: {error}") from error


def positive_int(text: str) -> int:
    """Return a number of the command line that must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def seed(text: str) -> int:
    """Return a seed of the command line, from 0 to 2^32 - 1 as numpy's must be."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{number} must be in [0, 4294967295]")
    return number


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value
