#!/usr/bin/env bash
# TorchRL's hindsight goals are where the agent stood before it acted, and, where the buffer wraps, another episode's.
#
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.15.0, numpy 2.4.6; Python 3.11.
# Behaviour: HERReplayBuffer takes a goal from "achieved_goal" of a later transition: where that starts, not where it
#   leads to. What an episode ended in is never a goal and no last action is ever rewarded, though "final" promises "the
#   final achieved state of the episode"; "future" gives an action the goal it starts at. In a full buffer, "final" gives
#   the part of an episode that lies before the wrap the goal of another episode; the documentation says it cannot.
#   achieved_goal_key=("next", "achieved_goal") mends the first, not the second.
# Guess: as in the paper and in Stable-Baselines3: a goal that the transition itself or a later one of its episode reached.
# Seen: what the script compares with at its end. A place is ten times the episode plus the steps taken in it: the goals
#   should be 5, then 15 and 25.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torchrl==0.14.1" "tensordict==0.14.3" "torch==2.15.0" \
    "numpy==2.4.6"

cat > goals.py <<'PYTHON'
import torch
from tensordict import TensorDict
from torchrl.data import HERReplayBuffer, LazyTensorStorage

LENGTH = 5


def reached(batch):
    return (batch["next", "achieved_goal"] == batch["desired_goal"]).float()


def relabelled(strategy, capacity, episodes, **options):
    """Return for each place an action was taken at the goals it was given, and the places whose action was rewarded."""
    torch.manual_seed(0)
    storage = LazyTensorStorage(capacity)
    buffer = HERReplayBuffer(reached, her_ratio=1.0, strategy=strategy, storage=storage, batch_size=500, **options)
    for episode in range(episodes):
        places = 10.0 * episode + torch.arange(LENGTH + 1.0)[:, None]
        zero, done = torch.zeros(LENGTH, 1), torch.arange(LENGTH)[:, None] == LENGTH - 1
        after = {"achieved_goal": places[1:], "desired_goal": zero, "reward": zero.clone(), "done": done}
        root = {"achieved_goal": places[:-1], "desired_goal": zero.clone(), "next": after}
        buffer.extend(TensorDict(root, batch_size=[LENGTH]))
    goals, rewarded = {}, set()
    for step in buffer.sample():
        place = int(step["achieved_goal"])
        goals.setdefault(place, set()).add(int(step["desired_goal"]))
        rewarded |= {place} if step["next", "reward"] else set()
    return {place: sorted(goals[place]) for place in sorted(goals)}, sorted(rewarded)


for strategy, capacity, episodes, options in (
    ("final", 12, 1, {}),
    ("future", 12, 1, {}),
    ("final", 12, 3, {}),
    ("final", 12, 3, {"achieved_goal_key": ("next", "achieved_goal")}),
):
    goals, rewarded = relabelled(strategy, capacity, episodes, **options)
    print(f"{strategy}, {episodes} of {LENGTH} steps in {capacity} {options or ''}: goals {goals}, rewarded {rewarded}")
PYTHON
env/bin/python -W ignore goals.py 2> errors.txt | grep '^f' > seen.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
final, 1 of 5 steps in 12 : goals {0: [4], 1: [4], 2: [4], 3: [4], 4: [4]}, rewarded [3]
future, 1 of 5 steps in 12 : goals {0: [0, 1, 2, 3, 4], 1: [1, 2, 3, 4], 2: [2, 3, 4], 3: [3, 4], 4: [4]}, rewarded [0, 1, 2, 3]
final, 3 of 5 steps in 12 : goals {3: [4], 4: [4], 10: [14], 11: [14], 12: [14], 13: [14], 14: [14], 20: [14], 21: [14], 22: [24], 23: [24], 24: [24]}, rewarded [3, 13, 23]
final, 3 of 5 steps in 12 {'achieved_goal_key': ('next', 'achieved_goal')}: goals {3: [5], 4: [5], 10: [15], 11: [15], 12: [15], 13: [15], 14: [15], 20: [15], 21: [15], 22: [25], 23: [25], 24: [25]}, rewarded [4, 14, 24]
TEXT
diff expected.txt seen.txt && cat seen.txt
