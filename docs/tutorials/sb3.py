"""SACERA in a Stable-Baselines3 script: train, watch the entropy, save, load, choose the floor."""

# --8<-- [start:train]
import gymnasium
import numpy as np
import torch

from era_rl import SACERA, EntropyMonitor

env = gymnasium.make("Pendulum-v1")
model = SACERA("MlpPolicy", env, learning_starts=200, seed=0)
monitor = EntropyMonitor(check_freq=100, csv_path="entropy.csv")
model.learn(400, callback=monitor)  # a first look; give it 10,000 steps to learn something
# --8<-- [end:train]

# --8<-- [start:monitor]
floor = model.policy.target_entropy  # H0: -0.5 nats, for Pendulum's one action dimension
assert floor == -0.5
assert monitor.minimum >= floor - 1e-5  # the least entropy of any state visited so far
checks = np.genfromtxt("entropy.csv", delimiter=",", names=True)
assert np.all(checks["entropy_min"] >= checks["floor"] - 1e-5)
# --8<-- [end:monitor]

# --8<-- [start:save]
model.save("pendulum")
model.save_replay_buffer("pendulum_buffer")  # SB3 keeps it out of the model's file

loaded = SACERA.load("pendulum", env=env)
loaded.load_replay_buffer("pendulum_buffer")
obs, _ = env.reset(seed=1)
action, _ = model.predict(obs, deterministic=True)  # the mode; without it, a sample
assert np.array_equal(action, loaded.predict(obs, deterministic=True)[0])
loaded.learn(50, reset_num_timesteps=False)
assert loaded.num_timesteps == 450
# --8<-- [end:save]

# --8<-- [start:weights]
mine = SACERA("MlpPolicy", env)  # built by you, from code you trust
mine.set_parameters("pendulum.zip")  # tensors alone: nothing in the file is executed
assert np.array_equal(action, mine.predict(obs, deterministic=True)[0])
# --8<-- [end:weights]

# --8<-- [start:floor]
states = torch.as_tensor(np.stack([env.observation_space.sample() for _ in range(256)]))


def entropies(**options):
    """Return the entropies in nats of an untrained policy at 256 states."""
    policy = SACERA("MlpPolicy", env, seed=0, **options).policy
    with torch.no_grad():
        return policy.entropy(states)


# the exact floor, spent in full: the policy has H0 nats in every state
for nats in (-2.0, -0.5, 0.3):
    assert (entropies(target_entropy=nats) - nats).abs().max() < 1e-5

# with slack the network may hold more entropy than H0, but never less
loose = entropies(target_entropy=-2.0, slack=0.2)
assert loose.min() > -2.0

# Eq. 11 of the paper holds the entropy before truncation; the policy's own is lower
assert entropies(floor="gaussian", target_entropy=0.25).max() < 0.25
# --8<-- [end:floor]
