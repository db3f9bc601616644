#!/usr/bin/env bash
# A PettingZoo time limit reaches Stable-Baselines3 through SuperSuit as a true end of the episode.
#
# Versions: supersuit 3.11.0, pettingzoo 1.27.0, gymnasium 1.4.0, stable-baselines3 2.9.2, torch 2.15.0; Python 3.11.
# Behaviour: concat_vec_envs_v1(base_class="stable_baselines3") turns terminations and truncations into one
#   done and leaves "TimeLimit.truncated" out of the infos. SB3 reads that key alone (SAC, TD3 and DQN to keep
#   a time limit from becoming a terminal state, PPO and A2C to bootstrap), so every agent learns that the
#   last state before the limit is worth nothing. The same environment through DummyVecEnv has the key.
# Guess: base_class="stable_baselines3" gives what SB3's own vectorised environments give.
# Seen: supersuit: done True, TimeLimit.truncated absent
#       DummyVecEnv: done True, TimeLimit.truncated True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "supersuit==3.11.0" "pettingzoo==1.27.0" \
    "gymnasium==1.4.0" "stable-baselines3==2.9.2" "torch==2.15.0"

cat > limit.py <<'PYTHON'
import gymnasium
import numpy as np
import supersuit
from pettingzoo import ParallelEnv
from stable_baselines3.common.vec_env import DummyVecEnv

OBSERVATIONS, ACTIONS = gymnasium.spaces.Box(0, 3, (1,), np.float32), gymnasium.spaces.Discrete(2)


class Counting(ParallelEnv):
    """One agent that counts to three, where a time limit, not a terminal state, ends the episode."""

    metadata = {"name": "counting"}
    render_mode = None
    possible_agents = ["agent"]

    def observation_space(self, agent):
        return OBSERVATIONS

    def action_space(self, agent):
        return ACTIONS

    def reset(self, seed=None, options=None):
        self.agents, self.count = ["agent"], 0
        return {"agent": np.zeros(1, np.float32)}, {"agent": {}}

    def step(self, actions):
        self.count += 1
        over = self.count == 3
        self.agents = [] if over else ["agent"]
        obs = np.full(1, self.count, np.float32)
        return {"agent": obs}, {"agent": 1.0}, {"agent": False}, {"agent": over}, {"agent": {}}


class Single(gymnasium.Env):
    """The same environment in gymnasium's interface."""

    observation_space, action_space = OBSERVATIONS, ACTIONS

    def reset(self, *, seed=None, options=None):
        self.inner = Counting()
        obs, infos = self.inner.reset()
        return obs["agent"], infos["agent"]

    def step(self, action):
        return tuple(part["agent"] for part in self.inner.step({"agent": action}))


vec = supersuit.pettingzoo_env_to_vec_env_v1(Counting())
through = supersuit.concat_vec_envs_v1(vec, 1, num_cpus=0, base_class="stable_baselines3")
for name, env in (("supersuit", through), ("DummyVecEnv", DummyVecEnv([Single]))):
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros(1, dtype=int))
    print(f"{name}: done {bool(dones[0])}, TimeLimit.truncated {infos[0].get('TimeLimit.truncated', 'absent')}")
PYTHON
env/bin/python limit.py | tee seen.txt

diff seen.txt - <<'EXPECTED'
supersuit: done True, TimeLimit.truncated absent
DummyVecEnv: done True, TimeLimit.truncated True
EXPECTED
