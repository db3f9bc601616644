#!/usr/bin/env bash
# d3rlpy's replay buffer joins an episode of one step to the next one, and its end is lost.
#
# Versions: d3rlpy 2.8.1 (it requires gymnasium 1.0.0), torch 2.15.0; Python 3.11.
# Behaviour: ReplayBuffer.clip_episode does nothing while the episode it collects has no transition, and an episode not
#   marked as ended yet has one transition less than steps. So one that terminates at its first step stays open,
#   and the next one's steps are added to it: its terminal transition becomes one to the next reset, with terminal 0,
#   and the target of its value has the value of another episode's first state. fit_online and collect store what they
#   see this way. An environment of one step, such as a bandit, keeps every second end. Episodes of two steps or more
#   are right, and so are those of one step in an MDPDataset.
# Guess: after clip_episode(terminated=True) the last transition is terminal, whatever the episode's length.
# Seen: what the script compares with at its end: a transition's state and the state it goes to.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "d3rlpy==2.8.1" "torch==2.15.0"

cat > ends.py <<'PYTHON'
import d3rlpy
import gymnasium
import numpy as np


class Ends(gymnasium.Env):
    """Episodes of given lengths, each up to a terminal state. A state is ten times the episode plus the step."""

    observation_space = gymnasium.spaces.Box(0, 1000, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, lengths):
        self.lengths, self.episode = lengths, -1

    def observation(self):
        return np.array([10 * self.episode + self.count], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self.observation(), {}

    def step(self, action):
        self.count += 1
        over = self.count == self.lengths[self.episode]
        return self.observation(), float(over), over, False, {}


def shown(dataset):
    steps = [dataset.transition_picker(*dataset.buffer[i]) for i in range(dataset.transition_count)]
    return ", ".join(
        f"{step.observation[0]:.0f} to " + ("the end" if step.terminal else f"{step.next_observation[0]:.0f}")
        for step in steps
    )


with open("seen.txt", "w") as seen:
    for lengths in ((2, 2, 2), (2, 1, 2, 1, 2), (1, 1, 1, 1)):
        ends = Ends((*lengths, 1))  # one more to be in after the last reset
        collected = d3rlpy.algos.TD3Config().create().collect(ends, n_steps=sum(lengths), show_progress=False)
        last = np.concatenate([np.arange(1, n + 1) == n for n in lengths]).astype(np.float32)
        by_hand = d3rlpy.dataset.MDPDataset(
            observations=np.concatenate([10 * k + np.arange(n) for k, n in enumerate(lengths)])[:, None],
            actions=np.full((len(last), 1), 0.5),
            rewards=last,
            terminals=last,
        )
        print("Episodes of", *lengths, "steps", file=seen)
        for name, dataset in (("collect", collected), ("MDPDataset", by_hand)):
            print(f"  {name}, episodes of", *map(len, dataset.episodes), "steps:", shown(dataset), file=seen)
PYTHON
env/bin/python ends.py > log.txt 2>&1 || { cat log.txt; exit 1; }

cat > expected.txt <<'TEXT'
Episodes of 2 2 2 steps
  collect, episodes of 2 2 2 steps: 0 to 1, 1 to the end, 10 to 11, 11 to the end, 20 to 21, 21 to the end
  MDPDataset, episodes of 2 2 2 steps: 0 to 1, 1 to the end, 10 to 11, 11 to the end, 20 to 21, 21 to the end
Episodes of 2 1 2 1 2 steps
  collect, episodes of 2 3 3 steps: 0 to 1, 1 to the end, 10 to 20, 20 to 21, 21 to the end, 30 to 40, 40 to 41, 41 to the end
  MDPDataset, episodes of 2 1 2 1 2 steps: 0 to 1, 1 to the end, 10 to the end, 20 to 21, 21 to the end, 30 to the end, 40 to 41, 41 to the end
Episodes of 1 1 1 1 steps
  collect, episodes of 2 2 steps: 0 to 10, 10 to the end, 20 to 30, 30 to the end
  MDPDataset, episodes of 1 1 1 1 steps: 0 to the end, 10 to the end, 20 to the end, 30 to the end
TEXT
diff expected.txt seen.txt && cat seen.txt
