"""``era-demo``: train SACERA on a DeepMind Control task and show that it learns above its floor."""

import argparse
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from era_rl.runs.command import add_arguments, exit_status
from era_rl.runs.settings import Setting, Settings, SettingsError


@dataclass(frozen=True, kw_only=True)
class Demo(Settings):
    """What the demo trains on, and for how long."""

    env: Annotated[str, Setting("gymnasium id")] = "dm_control/walker-walk-v0"
    steps: Annotated[int, Setting("environment steps", low=100, short="n")] = 20_000
    episodes: Annotated[int, Setting("episodes of each evaluation", low=1)] = 3
    # the evaluations' is one above
    seed: Annotated[int, Setting("seed", low=0, high=2**32 - 2)] = 0
    device: Annotated[str, Setting("torch device")] = "auto"
    threads: Annotated[int, Setting("torch CPU threads; 0: all", low=0)] = 0
    out: Annotated[Path, Setting("folder to write to")] = Path("runs/demo")


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 2, with a line of text, for a wrong argument."""
    # nothing is rendered; without a display mujoco would warn of it
    os.environ.setdefault("MUJOCO_GL", "disabled")
    warnings.filterwarnings("ignore", message="rich is experimental")
    parser = argparse.ArgumentParser(prog="era-demo", description=__doc__)
    add_arguments(parser, Demo)
    given = vars(parser.parse_args(argv))
    return exit_status("era-demo", lambda: _run(Demo(**given)), (SettingsError,))


def _run(args: Demo) -> None:
    from era_rl.demo_run import run  # torch and SB3, once the arguments are read

    run(args)


if __name__ == "__main__":
    sys.exit(main())
