"""ERA for Stable-Baselines3."""

from era_rl.sb3.actor_critic import (
    ERAActorCriticCnnPolicy,
    ERAActorCriticPolicy,
    ERAMaskableCnnPolicy,
    ERAMaskableMultiInputPolicy,
    ERAMaskablePolicy,
    ERAMultiInputActorCriticPolicy,
    ERARecurrentCnnPolicy,
    ERARecurrentMultiInputPolicy,
    ERARecurrentPolicy,
)
from era_rl.sb3.algorithms import A2CERA, PPOERA, TQCERA, CrossQERA, MaskablePPOERA, RecurrentPPOERA
from era_rl.sb3.buffers import DeviceReplayBuffer
from era_rl.sb3.callbacks import EntropyMonitor
from era_rl.sb3.discrete_sac import (
    DiscreteSACERA,
    DiscreteSACERACnnPolicy,
    DiscreteSACERAMultiInputPolicy,
    DiscreteSACERAPolicy,
)
from era_rl.sb3.distributions import HeadDistribution
from era_rl.sb3.gradient_conflict import GradientConflict, plot_gradient_conflict
from era_rl.sb3.policies import (
    CrossQERAPolicy,
    SACERACnnPolicy,
    SACERAMultiInputPolicy,
    SACERAPolicy,
    TQCERACnnPolicy,
    TQCERAMultiInputPolicy,
    TQCERAPolicy,
)
from era_rl.sb3.sac import SACERA, paper_preset
from era_rl.sb3.xqc import XQCERA, XQCERACnnPolicy, XQCERAMultiInputPolicy, XQCERAPolicy

__all__ = [
    "A2CERA",
    "PPOERA",
    "SACERA",
    "TQCERA",
    "XQCERA",
    "CrossQERA",
    "CrossQERAPolicy",
    "DeviceReplayBuffer",
    "DiscreteSACERA",
    "DiscreteSACERACnnPolicy",
    "DiscreteSACERAMultiInputPolicy",
    "DiscreteSACERAPolicy",
    "ERAActorCriticCnnPolicy",
    "ERAActorCriticPolicy",
    "ERAMaskableCnnPolicy",
    "ERAMaskableMultiInputPolicy",
    "ERAMaskablePolicy",
    "ERAMultiInputActorCriticPolicy",
    "ERARecurrentCnnPolicy",
    "ERARecurrentMultiInputPolicy",
    "ERARecurrentPolicy",
    "EntropyMonitor",
    "GradientConflict",
    "HeadDistribution",
    "MaskablePPOERA",
    "RecurrentPPOERA",
    "SACERACnnPolicy",
    "SACERAMultiInputPolicy",
    "SACERAPolicy",
    "TQCERACnnPolicy",
    "TQCERAMultiInputPolicy",
    "TQCERAPolicy",
    "XQCERACnnPolicy",
    "XQCERAMultiInputPolicy",
    "XQCERAPolicy",
    "paper_preset",
    "plot_gradient_conflict",
]
