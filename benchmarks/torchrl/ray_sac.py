"""SAC-ERA with TorchRL's RayCollector: collectors on several machines, learning on in case one dies.

RayCollector does not survive the death of a worker. This script catches the error, builds new
collectors and goes on from the last checkpoint. Without ``--address`` it starts a Ray cluster on this
machine::

    python -m benchmarks.torchrl.ray_sac --collectors 2 --steps 20000 --out runs/ray

README.md beside it says how to use a cluster of several machines.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from tensordict import TensorDictBase
from torchrl.collectors.distributed import RayCollector
from torchrl.envs.utils import ExplorationType

from benchmarks.results import circumstances
from era_rl.runs.command import Parser, add_arguments, exit_status, refuse_old
from era_rl.runs.folder import write_json
from era_rl.runs.settings import plain
from era_rl.torchrl.config import Config, SACConfig
from era_rl.torchrl.envs import make_envs
from era_rl.torchrl.stacked import StackedPolicy
from era_rl.torchrl.trainer import COLLECTION, Trainer

log = logging.getLogger("ray_sac")


class Collectors(RayCollector):
    """RayCollector whose episodes can be begun anew, as a checkpoint asks for."""

    kill_at: int | None = None
    """Collected frames after which one worker is killed, to show that the run survives it."""

    def reset(self) -> None:
        """Begin new episodes in every worker."""
        ray.get([collector.reset.remote() for collector in self.remote_collectors])

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batches of data."""
        for data in super().iterator():
            yield data
            if self.kill_at is not None and self.collected_frames >= self.kill_at:
                self.kill_at = None
                log.warning("killing a worker after %d frames", self.collected_frames)
                ray.kill(self.remote_collectors[0])


def start_ray(address: str | None, workers: int, attempts: int = 4) -> None:
    """Connect to a cluster, or start one here; again if it times out, as on slow machines it does."""
    cluster = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    for attempt in range(1, attempts + 1):
        try:
            # the workers' own output stays in Ray's log files
            ray.init(**cluster, log_to_driver=False)
            return
        except Exception as error:  # Ray raises a plain Exception
            ray.shutdown()
            if attempt == attempts:
                raise
            log.warning("Ray did not start (attempt %d): %s", attempt, error)


def make_collectors(config: Config, policy: StackedPolicy, *, kill_at: int | None) -> Collectors:
    """Return one collector a Ray worker, each on one CPU."""
    collectors = Collectors(
        [
            partial(make_envs, config, config.n_envs, COLLECTION + index)
            for index in range(config.collectors)
        ],
        policy,
        frames_per_batch=config.seeds * config.steps_per_iteration,
        total_frames=config.seeds * config.steps,
        exploration_type=ExplorationType.RANDOM,
        storing_device="cpu",
        sync=True,
        remote_configs={"num_cpus": 1, "memory": 500 * 1024**2},
    )
    collectors.update_policy_weights_()
    collectors.kill_at = kill_at
    return collectors


def train(
    config: Config, *, address: str | None = None, kill_at: int | None = None
) -> dict[str, Any]:
    """Train to the end, through the death of workers, and return what happened.

    Args:
        config: The settings; ``collectors`` is the number of Ray workers.
        address: Of a running Ray cluster; None starts one on this machine.
        kill_at: Frames after which a worker of the first attempt is killed.
    """
    start_ray(address, config.collectors)
    started, deaths = time.monotonic(), []
    while True:
        trainer = Trainer(config, partial(make_collectors, kill_at=kill_at))
        resumed_at = trainer.learner.steps
        try:
            returns = trainer.run()
            break
        except RayActorError as error:
            lost = trainer.learner.steps
            log.warning("a worker died at step %d: %s", lost, str(error).split("\n", 1)[0])
            deaths.append(
                {"resumed_at": resumed_at, "died_at": lost, "error": type(error).__name__}
            )
            config, kill_at = replace(config, resume=True), None
        finally:
            trainer.close()
    return {
        "config": plain(asdict(trainer.config)),
        "deaths": deaths,
        "last_attempt_resumed_at": resumed_at,
        "steps": trainer.learner.steps,
        "returns": returns.tolist(),
        "seconds": round(time.monotonic() - started, 1),
        **circumstances(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write what happened to a file, and return the exit status."""
    parser = Parser(prog="python -m benchmarks.torchrl.ray_sac", description=__doc__)
    parser.add_argument("--address", help="of a Ray cluster, such as auto; default: this machine")
    parser.add_argument("--kill-at", type=int, help="kill a worker after so many frames")
    parser.add_argument("--summary", type=Path, help="file to write; default: OUT/summary.json")
    refuse_old(parser, {"--workers": "--collectors"})
    add_arguments(parser, SACConfig)
    options = vars(parser.parse_args(arguments))
    address, kill_at, path = (options.pop(name) for name in ("address", "kill_at", "summary"))
    workers = options.setdefault("collectors", 2)
    defaults = {"steps": 20_000, "save_freq": 1_000, "out": Path("runs/ray"), "steps_per_batch": 10}
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

    def command() -> None:
        config = SACConfig(**{**defaults, "updates": 10 * workers, **options})
        summary = train(config, address=address, kill_at=kill_at)
        write_json(path or config.out / "summary.json", summary)
        sys.stdout.write(json.dumps(summary) + "\n")

    return exit_status("benchmarks.torchrl.ray_sac", command)


if __name__ == "__main__":
    sys.exit(main())
