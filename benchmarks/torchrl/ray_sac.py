"""SAC-ERA with TorchRL's RayCollector: collectors on several machines, learning on in case one dies.

RayCollector does not survive the death of a worker. This script catches the error, builds new
collectors and goes on from the last checkpoint. Without ``--address`` it starts a Ray cluster on this
machine::

    python -m benchmarks.torchrl.ray_sac --workers 2 --total-steps 20000 --out runs/ray

README.md beside it says how to use a cluster of several machines.
"""

import argparse
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from tensordict import TensorDictBase
from torchrl.collectors.distributed import RayCollector
from torchrl.envs.utils import ExplorationType

from era_rl.torchrl.config import Config, SACConfig
from era_rl.torchrl.envs import make_envs
from era_rl.torchrl.stacked import StackedPolicy
from era_rl.torchrl.trainer import COLLECTION, Trainer

log = logging.getLogger("ray_sac")

AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


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


@contextmanager
def ray_cluster(address: str | None, workers: int) -> Iterator[None]:
    """Connect to a Ray cluster, or to one that is started on this machine and ends with the context."""
    cluster = None if address else start_cluster(workers)
    # the workers' own output stays in Ray's log files
    ray.init(address=address or cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


def start_cluster(workers: int, attempts: int = 3) -> Cluster:
    """Start Ray on this machine, with one CPU a worker; again if it fails."""
    for attempt in range(1, attempts + 1):
        # Ray waits 15 seconds for the ports that its agents choose, too few on a loaded machine;
        # for ports that are given it does not wait (ray-project/ray issue 65983)
        ports = dict(zip(AGENT_PORTS, free_ports(len(AGENT_PORTS)), strict=True))
        arguments = {"num_cpus": workers, "include_dashboard": False, **ports}
        try:
            return Cluster(initialize_head=True, head_node_args=arguments)
        except Exception as error:  # Ray raises a plain Exception
            if attempt == attempts:
                raise
            log.warning("Ray did not start (attempt %d): %s", attempt, error)
    raise ValueError(f"attempts={attempts} must be at least 1")


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def make_collectors(config: Config, policy: StackedPolicy, *, kill_at: int | None) -> Collectors:
    """Return one collector a Ray worker, each on one CPU."""
    collectors = Collectors(
        [
            partial(make_envs, config, config.num_envs, COLLECTION + index)
            for index in range(config.collectors)
        ],
        policy,
        frames_per_batch=config.seeds * config.steps_per_iteration,
        total_frames=config.seeds * config.total_steps,
        exploration_type=ExplorationType.RANDOM,
        storing_device="cpu",
        sync=True,
        remote_configs={"num_cpus": 1, "memory": 500 * 1024**2},
    )
    collectors.update_policy_weights_()
    collectors.kill_at = kill_at
    return collectors


def train(config: Config, *, kill_at: int | None = None) -> dict[str, Any]:
    """Train on the connected cluster to the end, through deaths of workers, and say what happened.

    Args:
        config: The settings; ``collectors`` is the number of Ray workers.
        kill_at: Frames after which a worker of the first attempt is killed.
    """
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
        "config": asdict(config),
        "deaths": deaths,
        "last_attempt_resumed_at": resumed_at,
        "steps": trainer.learner.steps,
        "returns": returns.tolist(),
        "seconds": round(time.monotonic() - started, 1),
        "versions": {name: version(name) for name in ("torch", "torchrl", "tensordict", "ray")},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write what happened to a file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torchrl.ray_sac", description=__doc__
    )
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers that collect")
    parser.add_argument("--address", help="of a Ray cluster, such as auto; default: this machine")
    parser.add_argument("--total-steps", type=int, default=20_000)
    parser.add_argument("--checkpoint-interval", type=int, default=1_000)
    parser.add_argument("--learning-starts", type=int, default=1_000)
    parser.add_argument("--hidden", type=int, nargs="+", default=(256, 256))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kill-at", type=int, help="kill a worker after so many frames")
    parser.add_argument("--out", type=Path, default=Path("runs/ray"))
    parser.add_argument("--summary", type=Path, help="file to write; default: OUT/summary.json")
    options = vars(parser.parse_args(arguments))
    workers, address, kill_at, path = (
        options.pop(name) for name in ("workers", "address", "kill_at", "summary")
    )
    options |= {"hidden": tuple(options["hidden"]), "out": str(options["out"])}
    config = SACConfig(collectors=workers, steps_per_batch=10, updates=10 * workers, **options)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with ray_cluster(address, workers):
        summary = train(config, kill_at=kill_at)
    path = path or Path(config.out, "summary.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n")
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
