"""Discrete actions from images and vectors, with an entropy floor; with action masks; off policy."""

# --8<-- [start:dict]
import numpy as np
import torch
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3.common.envs import SimpleMultiObsEnv

from era_rl import PPOERA, DiscreteSACERA, EntropyMonitor, MaskablePPOERA
from era_rl.core import categorical_entropy

env = SimpleMultiObsEnv(random_start=False)  # Dict of an image and a vector; four moves
model = PPOERA(
    "MultiInputPolicy",
    env,
    target_entropy_fraction=0.3,  # H0 = 0.3 ln 4 nats; the default
    n_steps=64,
    batch_size=32,
    n_epochs=2,
    seed=0,
)
monitor = EntropyMonitor(check_freq=64)
model.learn(128, callback=monitor)
assert np.isclose(model.policy.target_entropy, 0.3 * np.log(4))
assert monitor.margin >= -1e-5  # the least H[pi(.|s)] - H0 of any state visited
# --8<-- [end:dict]

# --8<-- [start:confident]
# A policy that has grown certain is flattened to the floor; one that has not is left as it is.
head = model.policy.head
certain = torch.tensor([[9.0, 0.0, 0.0, 0.0]])
unsure = torch.tensor([[0.5, 0.0, 0.0, 0.0]])
assert torch.equal(head(unsure), unsure)
logits = head(certain)
assert logits.argmax() == 0
assert torch.isclose(categorical_entropy(logits), torch.tensor(0.416), atol=1e-3)  # 0.3 ln 4
# --8<-- [end:confident]

# --8<-- [start:mask]
masked = MaskablePPOERA(
    "MlpPolicy", InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10), n_steps=64, seed=0
)
watch = EntropyMonitor(check_freq=64)
masked.learn(64, callback=watch)
assert watch.margin >= -1e-5  # the floor is f ln m, with m the number of valid actions
# --8<-- [end:mask]

# --8<-- [start:sac]
replaying = DiscreteSACERA("MultiInputPolicy", env, buffer_size=200, learning_starts=50, seed=0)
seen = EntropyMonitor(check_freq=20)
replaying.learn(60, callback=seen)
assert seen.margin >= -1e-5
# --8<-- [end:sac]
