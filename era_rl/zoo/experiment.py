"""rl_zoo3's experiment with settings that are data, a folder of its own, and checkpoints."""

import argparse
import copy
import os
import shutil
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from era_rl.devices import check_device
from era_rl.runs.folder import in_one_piece, locked
from era_rl.zoo.checkpoint import (
    BEST,
    CheckpointCallback,
    restore_buffer,
    restore_logger,
    restore_logs,
)
from era_rl.zoo.config import with_objects


class Experiment(ExperimentManager):
    """A run of the zoo: rl_zoo3's, which reads no files and continues from a checkpoint.

    Args:
        args: The command line's arguments, written to the run's folder.
        settings: The checked entry of a configuration.
        checkpoint: Where to continue from, or None for a new run in a new folder.
        **options: Further arguments of rl_zoo3's ExperimentManager.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        settings: dict[str, Any],
        checkpoint: Path | None = None,
        **options: Any,
    ) -> None:
        self.settings = settings
        self.checkpoint = checkpoint
        self._envs: list[VecEnv] = []
        self._new_folder: str | None = None
        self._held = ExitStack()
        check_device(args.device)
        super().__init__(
            args,
            args.algo,
            args.env,
            str(args.log_folder),
            trained_agent="" if checkpoint is None else str(checkpoint / "model.zip"),
            seed=args.seed,
            device=args.device,
            vec_env_type=args.vec_env,
            verbose=args.verbose,
            show_progress=args.progress,
            **options,
        )
        if checkpoint is not None:
            self.save_path = str(checkpoint.parent)
            self.params_path = f"{self.save_path}/{self.env_name}"

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings for use and for the record (rl_zoo3's hook)."""
        return with_objects(self.settings), copy.deepcopy(self.settings)

    def create_log_folder(self) -> None:
        """Make the run's folder, or put its logs back to the checkpoint (rl_zoo3's hook)."""
        if self.checkpoint is not None:
            self._held.enter_context(locked(self.save_path))
            restore_logs(self.checkpoint)
            return
        if self.optimize_hyperparameters:
            return  # a search writes a report and no run
        while True:
            try:
                os.makedirs(self.params_path)
                self._new_folder = self.save_path
                self._held.enter_context(locked(self.save_path))
                return
            except FileExistsError:  # a run started at the same moment took the number
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"
            except OSError as error:
                raise ValueError(
                    f"--log-folder {self.args.log_folder} must be a writable folder: {error}"
                ) from error

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Return environments, noted so that they can be closed (rl_zoo3's hook)."""
        env = super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)
        if not self.optimize_hyperparameters:  # there rl_zoo3 closes them
            self._envs.append(env)
        return env

    def create_callbacks(self) -> None:
        """Add the progress bar, evaluations and checkpoints (rl_zoo3's hook)."""
        super().create_callbacks()
        for callback in self.callbacks:
            on_new_best = getattr(callback, "callback_on_new_best", None)
            if isinstance(on_new_best, SaveVecNormalizeCallback) and self.normalize:
                on_new_best.save_path = f"{self.params_path}/{BEST}"
        if not self.optimize_hyperparameters:
            self.callbacks.append(CheckpointCallback(Path(self.params_path), self.args.save_freq))

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Return the model and its settings; a new run that fails here leaves no folder."""
        try:
            return super().setup_experiment()
        except BaseException:
            self._close()
            if self._new_folder is not None:
                shutil.rmtree(self._new_folder)
            raise

    def learn(self, model: BaseAlgorithm) -> None:
        """Train for the steps that remain, logging to the run's folder."""
        formats = ["stdout", "tensorboard"] if self.verbose else ["tensorboard"]
        model.set_logger(configure(os.path.join(self.save_path, "tensorboard"), formats))
        if self.checkpoint is not None:
            restore_logger(model, self.checkpoint)
        try:
            model.learn(
                self.n_timesteps - model.num_timesteps,
                callback=self.callbacks,
                reset_num_timesteps=False,
            )
        except (EOFError, ConnectionError) as error:  # of the pipe to the process
            raise RuntimeError(
                "the process of an environment died: its error is above, unless the system ended it "
                f"(out of memory, say); to go on: era-zoo train --resume {self.save_path}"
            ) from error
        finally:
            self._close()

    def _close(self) -> None:
        self._held.close()
        for env in self._envs:
            with suppress(EOFError, ConnectionError):  # of a process that has died
                env.close()

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        """Return the checkpoint's model and give the callbacks their past (rl_zoo3's hook)."""
        assert self.checkpoint is not None
        model = ALGOS[self.algo].load(self.trained_agent, env=env, device=self.device)
        restore_buffer(model, self.checkpoint)
        # from the same seed the run would meet again the episodes and the noise that it began with
        model.set_random_seed(_seed_after(self.seed, model.num_timesteps))
        for callback in self.callbacks:
            callback.n_calls = model.num_timesteps // self.n_envs
            if isinstance(callback, EvalCallback):
                _recall(callback)
        return model

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        """Write settings and arguments as plain YAML, which is safe to load (rl_zoo3's hook)."""
        folder = Path(self.params_path)
        arguments = {key: _plain(value) for key, value in sorted(vars(self.args).items())}
        for name, content in (("config.yml", saved_hyperparams), ("args.yml", arguments)):
            with in_one_piece(folder / name) as part:
                part.write_text(yaml.safe_dump(content))
        with (folder / "command.txt").open("a") as file:
            file.write(" ".join(sys.orig_argv) + "\n")


def _seed_after(seed: int, steps: int) -> int:
    return int(np.random.SeedSequence([seed, steps]).generate_state(1)[0])


def _recall(callback: EvalCallback) -> None:
    """Give an evaluation callback the evaluations in the file that it writes."""
    path = Path(f"{callback.log_path}.npz")
    if path.exists():
        with np.load(path) as past:
            callback.evaluations_timesteps = past["timesteps"].tolist()
            callback.evaluations_results = past["results"].tolist()
            callback.evaluations_length = past["ep_lengths"].tolist()
            callback.best_mean_reward = float(past["results"].mean(axis=1).max())
            if "successes" in past:
                callback.evaluations_successes = past["successes"].tolist()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
