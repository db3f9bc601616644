"""rsl_rl's runner with an entropy floor, on a vectorised environment of a few lines."""

from tempfile import TemporaryDirectory

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict


class Pointing(VecEnv):
    """Sees a point and should answer with it; every step is an episode."""

    num_envs, num_actions, max_episode_length, device, cfg = 64, 2, 1, "cpu", {}

    def __init__(self):
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.points = torch.rand(self.num_envs, 2) - 0.5

    def get_observations(self):
        """Return what the policy sees."""
        return TensorDict({"policy": self.points}, batch_size=[self.num_envs])

    def step(self, actions):
        """Return the next points, and how near the actions were to the last."""
        rewards = -(actions - self.points).square().sum(-1)
        self.points = torch.rand(self.num_envs, 2) - 0.5
        return self.get_observations(), rewards, torch.ones(self.num_envs, dtype=torch.bool), {}


# --8<-- [start:settings]
settings = {
    "num_steps_per_env": 8,
    "save_interval": 100,
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {
        "class_name": "MLPModel",
        "hidden_dims": [64, 64],
        "distribution_cfg": {
            "class_name": "era_rl.rsl_rl:ERADistribution",
            "action_range": (-1.0, 1.0),
        },
    },
    "critic": {"class_name": "MLPModel", "hidden_dims": [64, 64]},
    "algorithm": {"class_name": "PPO", "entropy_coef": 0.0},
}
# --8<-- [end:settings]

# --8<-- [start:train]
runner = OnPolicyRunner(Pointing(), settings, log_dir=None)
runner.learn(5)

policy = runner.get_inference_policy()
obs = runner.env.get_observations()
policy(obs, stochastic_output=True)
assert (policy.output_entropy >= -0.3 * 2).all()  # in every state

with TemporaryDirectory() as folder:
    runner.export_policy_to_onnx(folder)
# --8<-- [end:train]
