"""What a run of an SB3 agent is asked for, apart from what trains it, which takes seconds to load."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal

from era_rl.runs.settings import Setting, Settings, SettingsError, check_names

ALGORITHMS = {
    "sac_era": ("era_rl.sb3", "SACERA"),
    "sac_era_paper": ("era_rl.sb3", "SACERA"),
    "sac_era_simba": ("era_rl.sb3", "SACERA"),
    "fastsac_era": ("era_rl.sb3", "SACERA"),
    "tqc_era": ("era_rl.sb3", "TQCERA"),
    "crossq_era": ("era_rl.sb3", "CrossQERA"),
    "xqc_era": ("era_rl.sb3", "XQCERA"),
    "discrete_sac_era": ("era_rl.sb3", "DiscreteSACERA"),
    "ppo_era": ("era_rl.sb3", "PPOERA"),
    "a2c_era": ("era_rl.sb3", "A2CERA"),
    "recurrent_ppo_era": ("era_rl.sb3", "RecurrentPPOERA"),
    "sac": ("stable_baselines3", "SAC"),
    "sac_paper": ("stable_baselines3", "SAC"),
    "sac_simba": ("stable_baselines3", "SAC"),
    "tqc": ("sb3_contrib", "TQC"),
    "crossq": ("sb3_contrib", "CrossQ"),
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "ppo_lstm": ("sb3_contrib", "RecurrentPPO"),
}
"""Module and class of each algorithm; ``zoo_configs/<name>.yml`` has its settings by environment."""

Seed = Annotated[int, Setting("seed of environments and agent", low=0, high=2**32 - 1)]


@dataclass(frozen=True)
class AgentSettings(Settings):
    """The arguments of :class:`era_rl.sb3.run.Run`, and so of ``era-zoo train``.

    ``settings`` are those of the algorithm and its environment, as a file of ``zoo_configs`` has them.
    """

    algo: Annotated[str, Setting("algorithm: see era-zoo list")]
    env: Annotated[str, Setting("gymnasium id")]
    settings: Annotated[Mapping | None, Setting("the algorithm's settings")] = None
    seed: Seed = 0
    steps: Annotated[
        int | None,
        Setting("environment steps (default: the settings')", low=1, short="n", was="n_timesteps"),
    ] = None
    n_envs: Annotated[int | None, Setting("environments (default: the settings')", low=1)] = None
    vec_env: Annotated[
        Literal["dummy", "subproc"], Setting("environments in this process, or one in each")
    ] = "dummy"
    device: Annotated[str, Setting("torch device")] = "auto"
    eval_freq: Annotated[
        int | None,
        Setting(
            "steps between evaluations, of which there is one at the end too; below 1: none "
            "(default: a tenth of the steps, 25,000 at most)"
        ),
    ] = None
    eval_episodes: Annotated[int, Setting("episodes an evaluation", low=1)] = 10
    eval_envs: Annotated[int, Setting("environments of an evaluation, side by side", low=1)] = 1
    save_freq: Annotated[int, Setting("steps between checkpoints", low=1)] = 25_000
    threads: Annotated[
        int,
        Setting("threads of torch; below 1: as many as the networks gain by", was="num_threads"),
    ] = 0
    monitor: Annotated[
        bool, Setting("entropy and std on visited states, in entropy.csv, of ERA's algorithms")
    ] = True
    verbose: Annotated[
        Literal[0, 1, 2],
        Setting("0: silent, 1: a line a tenth and an evaluation, 2: SB3's tables too"),
    ] = 1
    progress: Annotated[bool, Setting("a progress bar (default: with era-zoo, on a terminal)")] = (
        False
    )
    gym_packages: Annotated[
        tuple[str, ...], Setting("modules to import that register environments")
    ] = ()


def algorithm_class(name: str) -> Any:
    """Return the class of an algorithm, a name of ``ALGORITHMS`` or "module:Class".

    Raises:
        SettingsError: For a name that is neither.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        check_names("algo", [name], ALGORITHMS)
        module, attribute = ALGORITHMS[name]
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"algo={name!r}: {error}") from error
