#!/usr/bin/env bash
# TorchRL's truncated normal, of a loc some standard deviations outside its bounds, is another distribution.
#
# Versions: torchrl 0.14.1, tensordict 0.14.3, torch 2.15.0, scipy 1.17.1, numpy 2.4.6; Python 3.11.
# Behaviour: a network's loc is not bounded (tanh_loc is off by default, TanhNormal's too), so actors learn one beyond
#   [-1, 1] where the best action is at a bound. At four standard deviations outside, mean and entropy are off; at ten the
#   density integrates to 0, log_prob is too low by 40 nats and more, mean and deterministic_sample are loc itself,
#   outside the support, and the entropy is -15 for every loc. scipy's truncnorm has the right values.
# Guess: the mean of a distribution on [-1, 1] lies in [-1, 1], and its density integrates to one.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torchrl==0.14.1" "tensordict==0.14.3" "torch==2.15.0" \
    "scipy==1.17.1" "numpy==2.4.6"

cat > tail.py <<'PYTHON'
import numpy as np
import torch
from scipy.stats import truncnorm
from torchrl.modules import TruncatedNormal

SCALE = 0.1
grid = torch.linspace(-1.0, 1.0, 200_001).unsqueeze(-1)
for loc in (0.9, 1.4, 2.0, 3.0):
    ours = TruncatedNormal(torch.tensor([loc]), torch.tensor([SCALE]), low=-1.0, high=1.0)
    right = truncnorm((-1 - loc) / SCALE, (1 - loc) / SCALE, loc, SCALE)
    mass = torch.trapezoid(ours.log_prob(grid).exp(), grid.squeeze(-1)).item()
    right_mass = np.trapezoid(right.pdf(grid.squeeze(-1).double().numpy()), grid.squeeze(-1).numpy())
    row = [("mass", mass, right_mass), ("mean", ours.mean.item(), right.mean())]
    action = 0.99
    row += [("log_prob(.99)", ours.log_prob(torch.tensor([action])).item(), right.logpdf(action))]
    row += [("entropy", ours.entropy().item(), right.entropy())]
    print(f"loc {loc}:", "; ".join(f"{name} {found:.2g}, scipy {value:.2g}" for name, found, value in row))
PYTHON
env/bin/python -W ignore tail.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
loc 0.9: mass 1, scipy 1; mean 0.87, scipy 0.87; log_prob(.99) 1.2, scipy 1.2; entropy -1.2, scipy -1.2
loc 1.4: mass 1, scipy 1; mean 0.96, scipy 0.98; log_prob(.99) 3.4, scipy 3.3; entropy -2.6, scipy -2.8
loc 2.0: mass 7.6e-18, scipy 1; mean 2, scipy 0.99; log_prob(.99) -36, scipy 3.6; entropy -15, scipy -3.6
loc 3.0: mass 0, scipy 1; mean 3, scipy 1; log_prob(.99) -1.9e+02, scipy 3.3; entropy -15, scipy -4.3
TEXT
diff expected.txt seen.txt && cat seen.txt
