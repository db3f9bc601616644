#!/usr/bin/env bash
# With frame_skip=4 TorchRL's environments that keep their state in the data move by one step and pay its reward four times.
#
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.15.0, jumanji 1.1.2, jax 0.10.2, numpy 2.4.6; Python 3.11.
# Behaviour: JumanjiEnv(frame_skip=n) appends a FrameSkipTransform, which calls the environment n times with the same
#   input and adds the rewards up. Where the state is part of that input, as in Jumanji's environments and in TorchRL's own
#   PendulumEnv, each call starts from the same state: the game moves by one action and n times its reward is paid. Shapes
#   and specs are right and nothing warns; a return is n times the game's own score. GymEnv repeats the action itself.
# Guess: the action is repeated n times and the rewards on the way are summed, as the argument's documentation says.
# Seen: what the script compares with at its end: eight steps should be 32 moves, and the rewards of 2048 are its score.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torchrl==0.14.1" "tensordict==0.14.3" "torch==2.15.0" \
    "jumanji==1.1.2" "jax==0.10.2" "numpy==2.4.6"

cat > skip.py <<'PYTHON'
import torch
from torchrl.envs import FrameSkipTransform, JumanjiEnv, PendulumEnv, TransformedEnv

STEPS = 8


def play(env, data, action):
    """Repeat the action; return the last data and the sum of the rewards."""
    total = 0.0
    for _ in range(STEPS):
        data["action"] = action
        data = env.step(data)["next"]
        total += data["reward"].item()
    return data, total


for skip in (1, 4):
    env = JumanjiEnv("Game2048-v1", frame_skip=skip, categorical_action_encoding=True)
    env.set_seed(0)
    data, total = play(env, env.reset(), torch.tensor(0))
    moves, score = data["state", "step_count"].item(), data["state", "score"].item()
    print(f"Game2048-v1, frame_skip={skip}: {moves} moves, score {score:g}, rewards {total:g}")

torch.manual_seed(0)
start = PendulumEnv().reset()
for skip in (1, 4):
    env = TransformedEnv(PendulumEnv(), FrameSkipTransform(skip))
    data, total = play(env, start.clone(), torch.ones(()))
    print(f"PendulumEnv, frame_skip={skip}: angle {data['th'].item():.2f}, rewards {total:.1f}")
PYTHON
env/bin/python -W ignore skip.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
Game2048-v1, frame_skip=1: 8 moves, score 20, rewards 20
Game2048-v1, frame_skip=4: 8 moves, score 20, rewards 80
PendulumEnv, frame_skip=1: angle 2.92, rewards -41.5
PendulumEnv, frame_skip=4: angle 2.92, rewards -166.1
TEXT
diff expected.txt seen.txt && cat seen.txt
