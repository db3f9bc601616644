#!/usr/bin/env bash
# d3rlpy gives the actions of a Minari dataset the observations of other steps, and soon of other episodes.
#
# Versions: d3rlpy 2.8.1 (it requires gymnasium 1.0.0), minari 0.5.4, torch 2.15.0, pillow 13.0.0; Python 3.11.
# Behaviour: a Minari episode of T steps has T + 1 observations, the last one after its last action. d3rlpy's get_minari
#   joins all episodes' observations, and all actions, rewards and ends, and cuts what it has joined at the same places,
#   those of the ends. So episode k, from 0, has its observations k steps late: its first k are of episodes before it,
#   and from episode T on none is its own. Offline training learns from pairs without relation; no shape tells.
#   The first episode is right, and all are if an MDPDataset is made of the same episodes without the last observations.
# Guess: the loader pairs each action with the observation it was taken on.
# Seen: what the script compares with at its end: observation -> action, an action being its observation and a half.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "d3rlpy==2.8.1" "minari[hdf5,create]==0.5.4" "torch==2.15.0" \
    "pillow==13.0.0"

cat > counting.py <<'PYTHON'
import gymnasium
import numpy as np


class Counting(gymnasium.Env):
    """Observations say which step of which episode they are: 100 times the episode's number plus the step's."""

    observation_space = action_space = gymnasium.spaces.Box(0, 1e6, (1,), np.float32)
    episode = -1

    def observation(self):
        return np.array([100 * self.episode + self.count], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self.observation(), {}

    def step(self, action):
        self.count += 1
        return self.observation(), 1.0, False, False, {}


gymnasium.register("Counting-v0", "counting:Counting", max_episode_steps=4)
PYTHON
cat > pairs.py <<'PYTHON'
import counting  # noqa: F401  (registers the environment)
import d3rlpy
import gymnasium
import minari
import numpy as np

EPISODES, HALF = 25, np.float32(0.5)  # each action is its observation and a half: d3rlpy takes whole ones for discrete
env = minari.DataCollector(gymnasium.make("Counting-v0"))
for _ in range(EPISODES):
    (observation, _), over = env.reset(), False
    while not over:
        observation, _, _, over, _ = env.step(observation + HALF)
env.create_dataset("counting/plain-v0")

loaded, _ = d3rlpy.datasets.get_minari("counting/plain-v0")
episodes = list(minari.load_dataset("counting/plain-v0"))
by_hand = d3rlpy.dataset.MDPDataset(
    observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
    actions=np.concatenate([episode.actions for episode in episodes]),
    rewards=np.concatenate([episode.rewards for episode in episodes]),
    terminals=np.concatenate([episode.terminations for episode in episodes]),
    timeouts=np.concatenate([episode.truncations for episode in episodes]),
)
with open("seen.txt", "w") as seen:
    for name, dataset in (("get_minari", loaded), ("by hand", by_hand)):
        print(name, file=seen)
        for k in (0, 1, 4, EPISODES - 1):
            episode = dataset.episodes[k]
            pairs = zip(episode.observations.ravel(), episode.actions.ravel(), strict=True)
            print(f"  episode {k}:", *(f"{o:.0f} -> {a:.1f}" for o, a in pairs), file=seen)
        right = sum(int((e.observations + HALF == e.actions).sum()) for e in dataset.episodes)
        print(f"  {right} of {sum(map(len, dataset.episodes))} actions with their observation", file=seen)
PYTHON
MINARI_DATASETS_PATH="$folder/datasets" env/bin/python pairs.py > log.txt 2>&1 || { cat log.txt; exit 1; }

cat > expected.txt <<'TEXT'
get_minari
  episode 0: 0 -> 0.5 1 -> 1.5 2 -> 2.5 3 -> 3.5
  episode 1: 4 -> 100.5 100 -> 101.5 101 -> 102.5 102 -> 103.5
  episode 4: 301 -> 400.5 302 -> 401.5 303 -> 402.5 304 -> 403.5
  episode 24: 1901 -> 2400.5 1902 -> 2401.5 1903 -> 2402.5 1904 -> 2403.5
  4 of 100 actions with their observation
by hand
  episode 0: 0 -> 0.5 1 -> 1.5 2 -> 2.5 3 -> 3.5
  episode 1: 100 -> 100.5 101 -> 101.5 102 -> 102.5 103 -> 103.5
  episode 4: 400 -> 400.5 401 -> 401.5 402 -> 402.5 403 -> 403.5
  episode 24: 2400 -> 2400.5 2401 -> 2401.5 2402 -> 2402.5 2403 -> 2403.5
  100 of 100 actions with their observation
TEXT
diff expected.txt seen.txt && cat seen.txt
