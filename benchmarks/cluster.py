"""Runs on the machines of a Ray cluster, as plain tasks that are retried when a machine is lost.

The machines need this repository, installed, at the path where it is here. Checkpoints stay on the
machine that writes them; a retried run goes on from them if the folder is shared, and else begins anew.
"""

import tempfile
import time
from pathlib import Path

import ray
from ray.exceptions import RayError

from benchmarks.runner import POLL_SECONDS, Launch, start
from benchmarks.suite import Run
from era_rl.runs.folder import in_one_piece

RETRIES = 3


class RemoteTask:
    """A run as a Ray task; its result and its output are written here when it ends."""

    def __init__(self, run: Run, results: Path, scratch: Path) -> None:
        self.result, self.folder = run.result(results), run.folder(scratch)
        command = run.command(results.resolve(), scratch.resolve())
        self.reference = _execute.remote(command, str(self.result.resolve()))

    def poll(self) -> int | None:
        """Return the exit status, or None while it is running; 1 where the machines were lost."""
        if not ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            exit_status, output, result = ray.get(self.reference)
        except RayError as error:
            exit_status, output, result = 1, str(error), None
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log.txt").write_text(output)
        if result is not None:
            with in_one_piece(self.result) as part:
                part.write_text(result)
        return exit_status

    def stop(self) -> None:
        """End it."""
        ray.cancel(self.reference, force=True)


def connect(address: str) -> tuple[Launch, int]:
    """Connect to a cluster ("local" starts one here) and return how to launch runs, and its cores."""
    ray.init(address, log_to_driver=False)
    return RemoteTask, int(ray.cluster_resources()["CPU"])


@ray.remote(num_cpus=1, max_retries=RETRIES)
def _execute(command: list[str], result: str) -> tuple[int, str, str | None]:
    """Run a command; return exit status, output, and what it wrote as its result."""
    with tempfile.TemporaryFile("w+") as log, start(command, log) as process:
        # not communicate(), which closes the pipe that the run watches
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
        log.seek(0)
        path = Path(result)
        done = process.returncode == 0 and path.exists()  # else it may be an older one
        return process.returncode, log.read(), path.read_text() if done else None
