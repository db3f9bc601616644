"""``era-demo``: train SAC and SACERA to swing up a pendulum, and show what a floor of entropy is."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from era_rl.runs.command import Parser, add_arguments, exit_status, set_up_training
from era_rl.runs.settings import Setting, Settings, SettingsError


@dataclass(frozen=True, kw_only=True)
class Demo(Settings):
    """For how long the demo trains, and where to."""

    steps: Annotated[int, Setting("environment steps of each algorithm", low=100, short="n")] = (
        6_000
    )
    episodes: Annotated[int, Setting("episodes of each evaluation", low=1)] = 3
    # the evaluations' is one above
    seed: Annotated[int, Setting("seed of both", low=0, high=2**32 - 2)] = 0
    device: Annotated[str, Setting("torch device")] = "cpu"
    threads: Annotated[
        int, Setting("threads of torch; 0: as many as the networks gain by, one", low=0)
    ] = 0
    out: Annotated[Path, Setting("folder to write to")] = Path("runs/demo")


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 2, with a line of text, for a wrong argument."""
    set_up_training()
    parser = Parser(prog="era-demo", description=__doc__)
    add_arguments(parser, Demo)
    given = vars(parser.parse_args(argv))
    return exit_status("era-demo", lambda: _run(Demo(**given)), (SettingsError,), extra="sb3")


def _run(args: Demo) -> None:
    from era_rl.demo_run import run  # torch and SB3, once the arguments are read

    run(args)


if __name__ == "__main__":
    sys.exit(main())
