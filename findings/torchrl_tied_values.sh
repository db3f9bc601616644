#!/usr/bin/env bash
# Where actions tie, TorchRL's one-hot policies take all of them at once, and DQN adds their values up.
#
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.15.0, numpy 2.4.6; Python 3.11.
# Behaviour: the mode of OneHotCategorical, and the greedy action of QValueActor, have a one for each action that shares
#   the maximum. QValueActor's value of that action is their sum, and DQNLoss takes it for max_a Q(s', a): with
#   optimistic first values of 1 for each of four actions its target is gamma 4, not gamma. The same network with the
#   categorical encoding of actions, TorchRL's other one, is right.
# Guess: an encoding of actions does not change what is learned; argmax takes the first, as torch's own one-hot
#   distribution does.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torchrl==0.14.1" "tensordict==0.14.3" "torch==2.15.0" \
    "numpy==2.4.6"

cat > ties.py <<'PYTHON'
import torch
from tensordict import TensorDict
from torchrl.data import Categorical, OneHot
from torchrl.modules import OneHotCategorical, QValueActor
from torchrl.objectives import DQNLoss

ACTIONS, GAMMA = 4, 0.5
logits = torch.zeros(ACTIONS)
print("mode:", OneHotCategorical(logits=logits).mode.tolist())
print("mode, torch:", torch.distributions.OneHotCategorical(logits=logits).mode.int().tolist())

state = torch.ones(1, 2)
for name, spec in (("one-hot", OneHot(ACTIONS)), ("categorical", Categorical(ACTIONS))):
    layer = torch.nn.Linear(2, ACTIONS)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.ones_(layer.bias)  # optimistic: each action is worth 1 until it has been tried
    actor = QValueActor(layer, in_keys=["observation"], spec=spec)
    greedy = actor(TensorDict(observation=state, batch_size=[1]))
    loss = DQNLoss(actor, action_space=spec, loss_function="l1", delay_value=False)
    loss.make_value_estimator(gamma=GAMMA)
    no = torch.zeros(1, 1, dtype=torch.bool)
    after = {"observation": state, "reward": torch.zeros(1, 1), "done": no, "terminated": no}
    batch = TensorDict(observation=state, action=spec.rand((1,)), next=after, batch_size=[1])
    error = loss(batch)["loss"].item()
    print(f"{name}: action {greedy['action'][0].tolist()}, value {greedy['chosen_action_value'].item():g},", end=" ")
    print(f"|1 - {GAMMA} max Q| = {error:g}")
PYTHON
env/bin/python -W ignore ties.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
mode: [1, 1, 1, 1]
mode, torch: [1, 0, 0, 0]
one-hot: action [1, 1, 1, 1], value 4, |1 - 0.5 max Q| = 1
categorical: action 0, value 1, |1 - 0.5 max Q| = 0.5
TEXT
diff expected.txt seen.txt && cat seen.txt
