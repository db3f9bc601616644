#!/usr/bin/env bash
# TorchRL's n-step transforms hand its losses a terminal state as one to go on from: all but one of n targets are wrong.
#
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.15.0, numpy 2.4.6; Python 3.11.
# Behaviour: MultiStep (for collectors) and MultiStepTransform (for replay buffers) move the next observation n steps on,
#   to the terminal state where the episode ends before, and leave "terminated" as it was, False, which is documented. DQN,
#   like every loss with a value estimator, takes that flag for the moved observation's and adds the value of the terminal
#   state, which nothing ever trains, to the targets of the n - 1 steps before the last. The transform's "nonterminal" is
#   True for them, and no loss reads it. MultiStepTransform(done_keys=[]) moves the flags too, and the targets are right.
# Guess: the flags of an n-step transition are those of the state it ends in, as in Stable-Baselines3's n-step buffer.
# Seen: what the script compares with at its end. Rewards are 0 and the terminal state's value must not count: the last
#   three targets are 0.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torchrl==0.14.1" "tensordict==0.14.3" "torch==2.15.0" \
    "numpy==2.4.6"

cat > targets.py <<'PYTHON'
import torch
from tensordict import TensorDict
from torchrl.data import Categorical, LazyTensorStorage, MultiStep, ReplayBuffer
from torchrl.envs.transforms import MultiStepTransform
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss

LENGTH, STEPS, GAMMA = 5, 3, 0.5


class Values(torch.nn.Module):
    """Two actions of the value 1, and of 100 in the terminal state, which no target ever trains."""

    def forward(self, state):
        return torch.where(state == LENGTH, 100.0, 1.0).expand(*state.shape[:-1], 2)


spec = Categorical(2)
loss = DQNLoss(QValueActor(Values(), in_keys=["observation"], spec=spec), action_space=spec, delay_value=False)
loss.make_value_estimator(gamma=GAMMA)

states = torch.arange(LENGTH + 1.0)[:, None]
end = (states[1:] == LENGTH).bool()
after = {"observation": states[1:], "reward": torch.zeros(LENGTH, 1), "done": end, "terminated": end}
episode = TensorDict(observation=states[:-1], action=spec.zero((LENGTH,)), next=after, batch_size=[LENGTH])
episode["next", "truncated"] = torch.zeros_like(end)


def replayed(**options):
    """Return the episode as a replay buffer gives it that saw another one after it."""
    transform = MultiStepTransform(n_steps=STEPS, gamma=GAMMA, **options)
    buffer = ReplayBuffer(storage=LazyTensorStorage(100), transform=transform)
    buffer.extend(torch.cat([episode, episode]))
    return buffer[:LENGTH]


for name, batch in (
    ("MultiStep", MultiStep(gamma=GAMMA, n_steps=STEPS)(episode[None].clone())[0]),
    ("MultiStepTransform", replayed()),
    ("MultiStepTransform(done_keys=[])", replayed(done_keys=[])),
):
    target = loss.value_estimator.value_estimate(batch.clone())
    print(f"{name}: next states {batch['next', 'observation'].flatten().int().tolist()},", end=" ")
    print(f"terminated {batch['next', 'terminated'].flatten().int().tolist()}, targets {target.flatten().tolist()}")
PYTHON
env/bin/python -W ignore targets.py 2> errors.txt | grep '^MultiStep' > seen.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
MultiStep: next states [3, 4, 5, 5, 5], terminated [0, 0, 0, 0, 1], targets [0.125, 0.125, 12.5, 25.0, 0.0]
MultiStepTransform: next states [3, 4, 5, 5, 5], terminated [0, 0, 0, 0, 1], targets [0.125, 0.125, 12.5, 25.0, 0.0]
MultiStepTransform(done_keys=[]): next states [3, 4, 5, 5, 5], terminated [0, 0, 1, 1, 1], targets [0.125, 0.125, 0.0, 0.0, 0.0]
TEXT
diff expected.txt seen.txt && cat seen.txt
