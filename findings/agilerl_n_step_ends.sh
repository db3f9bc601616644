#!/usr/bin/env bash
# AgileRL's n-step buffer runs on from a terminal step into the next episode, and cuts every environment where one ends.
#
# Versions: agilerl 2.58.0, agilerl-arena 1.29.0, torch 2.15.0, tensordict 0.13.0; Python 3.11. Only those of AgileRL's
#   requirements are installed that its buffer imports.
# Behaviour: MultiStepReplayBuffer sums the rewards of a window of n_step steps up to the first end. It looks for an end
#   from the second step on, so a window that starts with the terminal step has the next episode's rewards, a state of
#   the next episode and no end: the target of its value has what the next episode is worth, not its reward alone.
#   And an end in one environment stops the sum of all that are added together, as train_off_policy adds those of a
#   vector environment, while RainbowDQN discounts the value of the state reached by gamma ** n_step all the same.
# Guess: the n-step return of a terminal step is its reward, and an environment's is the same beside others.
# Seen: what the script compares with at its end: a state, its n-step return, and the state after the window.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torch==2.15.0" "tensordict==0.13.0" "numpy==2.4.6" \
    "gymnasium==1.4.0" "accelerate==1.15.0" "pydantic==2.14.4" "lazy-loader==0.6"
env/bin/uv pip install --quiet --python env/bin/python --no-deps "agilerl==2.58.0" "agilerl-arena==1.29.0"

cat > windows.py <<'PYTHON'
import numpy as np
import torch
from agilerl.components.data import Transition, transition_to_tensordict
from agilerl.components.replay_buffer import MultiStepReplayBuffer

GAMMA, STEPS, LENGTH = 0.5, 3, 4


def ending(t):
    """Step t of an environment whose episodes are four steps long; a state is ten times the episode plus the step."""
    episode, step = divmod(t, LENGTH)
    return 10 * episode + step, 10 * episode + step + 1, step == LENGTH - 1


def endless(t):
    """Step t of an environment without end. Each reward is 1 in both, so each state is worth 2 here."""
    return 100 + t, 101 + t, False


def windows(*environments):
    buffer = MultiStepReplayBuffer(max_size=100, n_step=STEPS, gamma=GAMMA)
    for t in range(9):
        states, following, done = zip(*(environment(t) for environment in environments), strict=True)
        transition = transition_to_tensordict(
            Transition(
                obs=np.array(states, np.float32)[:, None],
                action=np.zeros(len(states)),
                reward=np.ones(len(states), np.float32),
                next_obs=np.array(following, np.float32)[:, None],
                done=np.array(done),
            )
        )
        transition.batch_size = torch.Size([len(states)])
        buffer.add(transition)
    return buffer.storage[: len(buffer)]


def shown(rows):
    return ", ".join(
        f"{row['obs'].item():.0f}: {row['reward'].item()} "
        + ("end" if row["done"].item() else f"then {row['next_obs'].item():.0f}")
        for row in rows
    )


beside = windows(ending, endless)[1::2]
print("ending:", shown(windows(ending)))
print("endless:", shown(windows(endless)))
print("endless beside ending:", shown(beside))
targets = [row["reward"].item() + GAMMA**STEPS * 2 for row in beside]  # as in RainbowDQN.learn, the next value right
print("its targets, of a value of 2:", *targets)
PYTHON
env/bin/python windows.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
ending: 0: 1.75 then 3, 1: 1.75 end, 2: 1.5 end, 3: 1.75 then 12, 10: 1.75 then 13, 11: 1.75 end, 12: 1.5 end
endless: 100: 1.75 then 103, 101: 1.75 then 104, 102: 1.75 then 105, 103: 1.75 then 106, 104: 1.75 then 107, 105: 1.75 then 108, 106: 1.75 then 109
endless beside ending: 100: 1.75 then 103, 101: 1.75 then 104, 102: 1.5 then 104, 103: 1.75 then 106, 104: 1.75 then 107, 105: 1.75 then 108, 106: 1.5 then 108
its targets, of a value of 2: 2.0 2.0 1.75 2.0 2.0 2.0 1.75
TEXT
diff expected.txt seen.txt && cat seen.txt
