"""A run of an agent as a value: trained into a folder, gone on with after a kill, loaded to act."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from era_rl.devices import check_device, set_threads
from era_rl.runs.agent import algorithm_class
from era_rl.runs.folder import FolderError, checkpoints, discard, locked, newest_intact, step_of
from era_rl.runs.settings import SettingsError, fields_of
from era_rl.runs.yaml_files import read_mapping, write_mapping
from era_rl.sb3.run_callbacks import Evaluation
from era_rl.sb3.run_checkpoint import (
    BEST,
    CheckpointCallback,
    check_finite,
    refill_buffer,
    restore_buffer,
    restore_logger,
    restore_logs,
    save_statistics,
    set_aside_episodes,
)
from era_rl.sb3.run_parts import RunParts
from era_rl.sb3.run_settings import named_classes
from era_rl.sb3.update import trains

# arguments that runs of earlier versions did not record
ADDED = frozenset(["eval_envs", "monitor", "settings"])


class Run(RunParts):
    """One training run: algorithm, environment, settings and seed, and what can be done with them.

    ``Run("sac_era", "Pendulum-v1", steps=20_000).train("runs/a")`` is what ``era-zoo train`` does,
    ``Run.resume("runs/a")`` goes on with it after a kill, and ``Run.load("runs/a")`` returns the agent
    and its environment. The folder gets the final model ``<env>.zip``, ``best_model.zip``,
    ``evaluations.npz``, the episodes, ``entropy.csv`` of ERA's algorithms, TensorBoard logs, and the
    run itself as plain YAML.

    Args:
        algo: A name of ``ALGORITHMS``, or "module:Class" beside ``settings``.
        env: A gymnasium id.
        settings: Settings as a file of ``zoo_configs`` has them; None for the zoo's of the environment.
        seed: Seed of environments and agent.
        steps: Environment steps, instead of the settings' ``n_timesteps``.
        **others: ``n_envs``, ``vec_env``, ``device``, ``eval_freq``, ``eval_episodes``, ``eval_envs``,
            ``save_freq``, ``threads``, ``monitor``, ``verbose``, ``progress``, ``gym_packages``: as
            ``era-zoo train --help`` says. ``threads`` are those of the process, which training sets.

    Raises:
        SettingsError: For an unknown name or setting, with those that come close, and for a value out
            of range.
    """

    def train(self, folder: Path | str, callbacks: Sequence[BaseCallback] = ()) -> BaseAlgorithm:
        """Train a new agent and return it, its environments closed.

        Args:
            folder: Folder of the run, held until it ends. What fails before the first step leaves none.
            callbacks: Further callbacks, beside the settings', evaluations and checkpoints.

        Raises:
            SettingsError: If the folder cannot be written to, is another process' or holds a run, or a
                setting does not fit the environment.
            FloatingPointError: If the networks are not finite; the last checkpoint stays.
        """
        folder = Path(folder)
        with ExitStack() as held:
            held.enter_context(locked(folder))
            if has_run(folder):
                raise FolderError(
                    f"folder={str(folder)!r} holds a run: resume it, or take another folder"
                )
            is_new = [path.name for path in folder.iterdir()] == ["lock"]
            try:
                model, found = self._prepare(held, folder, callbacks, None)
            except BaseException:
                held.close()
                if is_new:
                    shutil.rmtree(folder)
                raise
            self._write(folder)
            return self._learn(model, found, folder, None)

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        callbacks: Sequence[BaseCallback] = (),
        *,
        steps: int | None = None,
        progress: bool = False,
    ) -> BaseAlgorithm:
        """Go on with a killed run from its last intact checkpoint, and return the agent.

        The steps are those of a run that was not killed, each logged once. Of a run that has ended the
        agent is returned as it is, unless more steps are asked for: an off-policy one then collects
        ``learning_starts`` steps first, as its replay buffer is gone.

        Args:
            folder: Folder of the run.
            callbacks: Those that were given to :meth:`train`.
            steps: Environment steps of the whole run, if other than it began with.
            progress: Whether to show a progress bar.

        Raises:
            SettingsError: If it is no run's folder, is damaged or another process', or has done so many
                steps.
        """
        folder = Path(folder)
        run = cls.read(folder)
        if steps is None and has_ended(folder):
            return cls.load(folder)[0]
        run = replace(run, progress=progress, steps=run.steps if steps is None else steps)
        saved = _saved(run, folder)
        saved.check_trains(run.total_steps, folder)
        with ExitStack() as held:
            held.enter_context(locked(folder))
            model, found = run._prepare(held, folder, callbacks, saved)
            run._write(folder)
            return run._learn(model, found, folder, saved)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        best: bool = False,
        seed: int = 0,
        device: str = "auto",
        **env_kwargs: Any,
    ) -> tuple[BaseAlgorithm, VecEnv]:
        """Return a run's agent and its environment, wrapped as in training and evaluated as there.

        Args:
            folder: Folder of the run.
            best: Whether to take the agent of the best evaluation, not the last.
            seed: Seed of environment and agent.
            device: Torch device.
            **env_kwargs: Arguments of the environment, such as ``render_mode``.

        Raises:
            SettingsError: If the folder or its files are no run's, or the environment cannot be made.
        """
        folder = Path(folder)
        check_device(device)
        run = replace(cls.read(folder), seed=seed, device=device)
        path, statistics = agent_files(folder, best)
        algorithm = algorithm_class(run.algo)
        # an agent that is not trained needs no memory
        memory: dict[str, Any] = (
            {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
        )
        with _named(f"{run.env} cannot be made"):
            env = run.make_env(1, statistics=statistics, **env_kwargs)
        try:
            return algorithm.load(path, env, device=device, seed=seed, **memory), env
        except (ValueError, AssertionError, KeyError, EOFError, RuntimeError) as error:
            raise SettingsError(f"{path} cannot be loaded: {error}") from error

    @classmethod
    def read(cls, folder: Path | str) -> "Run":
        """Return the run whose folder it is; SettingsError where its record is missing or damaged."""
        file = next(Path(folder).glob("*/args.yml"), None)
        if file is None:
            raise SettingsError(f"{folder} is not a run's folder: it has no */args.yml")
        values, fields = read_mapping(file), fields_of(cls)
        found = {
            field.name: values[name]
            for field in fields
            for name in (field.name, field.setting.was)
            if name in values
        }
        if missing := sorted({field.name for field in fields} - found.keys() - ADDED):
            raise SettingsError(
                f"{file} is damaged, {', '.join(missing)} missing: "
                f"{file.with_name('command.txt')} has the command of the run"
            )
        return cls(**{**found, "settings": read_mapping(file.with_name("config.yml"))})

    def _prepare(
        self,
        held: ExitStack,
        folder: Path,
        callbacks: Sequence[BaseCallback],
        saved: "_Saved | None",
    ) -> tuple[BaseAlgorithm, list[BaseCallback]]:
        """Return the model, new or as saved, and its callbacks; ``held`` closes environments."""
        check_device(self.device)
        if saved is not None:
            saved.restore_logs(folder)
        set_random_seed(self.seed)
        statistics = None if saved is None else saved.statistics
        with _named(f"{self.algo} on {self.env}"):
            found = [c(**kw) for c, kw in named_classes("callback", self.settings.get("callback"))]
            eval_env = None
            if self.eval_freq and self.eval_freq > 0:
                eval_env = self.make_env(self.eval_envs, statistics=statistics)
                held.callback(_close, eval_env)
            found += self.watchers(eval_env, folder)
            found += [CheckpointCallback(folder / self.name, self.save_freq), *callbacks]
            n_envs = self.settings.get("n_envs", 1)
            env = self.make_env(n_envs, statistics=statistics, monitor=folder)
            held.callback(_close, env)
            if saved is None:
                model = self.model(env)
                self._check_trains(model)
                return model, found
        model = algorithm_class(self.algo).load(saved.model, env=env, device=self.device)
        # from the same seed the run would meet again the episodes and the noise that it began with
        model.set_random_seed(_seed_after(self.seed, model.num_timesteps))
        return model, found

    def _check_trains(self, model: BaseAlgorithm) -> None:
        if isinstance(model, OffPolicyAlgorithm) and not trains(model, self.total_steps):
            raise SettingsError(
                f"learning_starts={model.learning_starts} must be below steps={self.total_steps}: no "
                "step would be trained on"
            )

    def _learn(
        self,
        model: BaseAlgorithm,
        callbacks: list[BaseCallback],
        folder: Path,
        saved: "_Saved | None",
    ) -> BaseAlgorithm:
        """Train for the steps that remain; what has ended keeps no checkpoint."""
        set_threads(self.threads, _products(model))
        formats = ["stdout", "tensorboard"] if self.verbose == 2 else ["tensorboard"]
        model.set_logger(configure(str(folder / "tensorboard"), formats))
        if saved is not None:
            saved.restore(model, callbacks, self.total_steps)
        try:
            model.learn(
                self.total_steps - model.num_timesteps,
                callback=callbacks,
                reset_num_timesteps=False,
                progress_bar=self.progress,
            )
        except (EOFError, ConnectionError) as error:  # of the pipe to the process
            sys.stdout.write("\n")  # fails where it was stdout's, which nobody reads any more
            sys.stdout.flush()
            raise RuntimeError(
                "the process of an environment died: its error is above, unless the system ended it "
                f"(out of memory, say); to go on: era-zoo train --resume {folder}"
            ) from error
        check_finite(model, folder)
        model.save(folder / f"{self.name}.zip")
        save_statistics(model, folder / self.name)
        for old in checkpoints(folder):
            discard(old)
        return model

    def _write(self, folder: Path) -> None:
        """Write the run and the command as plain text."""
        params = folder / self.name
        arguments = asdict(self)
        write_mapping(params / "config.yml", arguments.pop("settings"))
        write_mapping(params / "args.yml", arguments)
        with (params / "command.txt").open("a") as file:
            file.write(shlex.join(sys.orig_argv) + "\n")


class _Saved(NamedTuple):
    """What a run goes on from: a checkpoint, or the end of a run that has done all its steps."""

    model: Path
    statistics: Path
    step: int
    checkpoint: Path | None
    refill: int = 0  # steps of refill_buffer, before training goes on

    def check_trains(self, total_steps: int, folder: Path) -> None:
        """Raise SettingsError where no step would be trained on."""
        if total_steps <= self.step + self.refill:
            also = f", and {self.refill} more, which fill its replay buffer" * bool(self.refill)
            raise SettingsError(
                f"steps={total_steps} must be above the {self.step} that {folder} has done{also}"
            )

    def restore_logs(self, folder: Path) -> None:
        if self.checkpoint is None:
            set_aside_episodes(folder, self.step)
        else:
            restore_logs(self.checkpoint)

    def restore(
        self, model: BaseAlgorithm, callbacks: list[BaseCallback], total_steps: int
    ) -> None:
        """Give a loaded model its replay buffer and logger, and the callbacks their past."""
        if self.checkpoint is None:
            refill_buffer(model, total_steps - self.step)
        else:
            restore_buffer(model, self.checkpoint)
            restore_logger(model, self.checkpoint)
        for callback in callbacks:
            callback.n_calls = model.num_timesteps // model.n_envs
            if isinstance(callback, Evaluation):
                callback.recall()


def _saved(run: Run, folder: Path) -> _Saved:
    checkpoint = newest_intact(folder)
    if checkpoint is not None:
        paths = checkpoint / "model.zip", checkpoint / run.name
        return _Saved(*paths, step_of(checkpoint), checkpoint)
    if not has_ended(folder):
        raise SettingsError(f"{folder} has no checkpoint to go on from: begin a new run")
    model, statistics = agent_files(folder)
    state: Any = load_from_zip_file(model, load_data=True, device="cpu")[0]
    refill = max(state["learning_starts"], state["batch_size"]) if "learning_starts" in state else 0
    return _Saved(model, statistics, state["num_timesteps"], None, refill)


def _products(model: Any) -> int:
    """Return the multiplications of the largest product in an update; images are without bound."""
    weights = [p for p in model.policy.parameters() if p.ndim > 1]
    if any(p.ndim > 2 for p in weights):
        return sys.maxsize
    rows = getattr(model, "batch_size", None) or model.n_steps * model.n_envs
    return rows * max(p.numel() for p in weights)


def has_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return next(folder.glob("*/args.yml"), None) is not None


def has_ended(folder: Path) -> bool:
    """Return whether a run has its final model: a run that ends keeps no checkpoint."""
    return not checkpoints(folder) and (folder / f"{Run.read(folder).name}.zip").exists()


def agent_files(folder: Path, best: bool = False) -> tuple[Path, Path]:
    """Return the file of a run's agent, and the folder of what its observations are normalised by.

    The agent is the final one, or that of the best evaluation; of a run that has not ended, that of its
    last checkpoint.
    """
    name = Run.read(folder).name
    path, statistics = folder / ("best_model.zip" if best else f"{name}.zip"), folder / name
    if not best and (checkpoint := newest_intact(folder)) is not None:
        # the final model is whole when the last checkpoint has gone
        path, statistics = checkpoint / "model.zip", checkpoint / name
    if best and (statistics / BEST).is_dir():
        statistics = statistics / BEST
    if not path.exists():
        raise SettingsError(f"there is no model {path}")
    return path, statistics


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Raise what others' code raises for an argument as SettingsError."""
    try:
        yield
    except SettingsError:
        raise
    except (TypeError, ValueError, AssertionError, ImportError, gymnasium.error.Error) as error:
        raise SettingsError(f"{what}: {error}") from error


def _close(env: VecEnv) -> None:
    with suppress(EOFError, ConnectionError):  # of a process that has died
        env.close()


def _seed_after(seed: int, steps: int) -> int:
    return int(np.random.SeedSequence([seed, steps]).generate_state(1)[0])
