#!/usr/bin/env bash
# On a CPU, torch's fused optimizers read a gradient in the order of memory: one of other strides moves other weights.
#
# Versions: torch 2.15.0, numpy 2.4.6; Python 3.11.
# Behaviour: Adam, AdamW, SGD and Adagrad with fused=True, given a gradient of the parameter's shape whose strides are not the
#   parameter's, update each weight by the gradient of another one, without an error or a warning. torch.linalg.solve, which
#   preconditions a gradient here, returns its solution column by column. backward() lays gradients out as the parameter,
#   assigning .grad does not. Without fused, and with foreach, the step is right.
# Guess: fused=True is a faster way to the same step; or an error, as the kernels for CUDA raise.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torch==2.15.0" "numpy==2.4.6"

cat > steps.py <<'PYTHON'
import torch

torch.manual_seed(0)
layer = torch.nn.Linear(3, 4, bias=False)
x, y = torch.randn(8, 3), torch.randn(8, 4)
(layer(x) - y).square().mean().backward()
weight, curvature = layer.weight.detach(), 2 * torch.eye(4) + torch.ones(4, 4)
gradient = torch.linalg.solve(curvature, layer.weight.grad)
print("strides of the weights", weight.stride(), "of the preconditioned gradient", gradient.stride())
for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
    found = {}
    for way in ("plain", "foreach", "fused"):
        for order in ("", " of contiguous gradients"):
            param = torch.nn.Parameter(weight.clone())
            param.grad = gradient.contiguous() if order else gradient
            kind([param], lr=0.1, **({} if way == "plain" else {way: True})).step()
            found[way + order] = param.detach()
    wrong = [name for name, new in found.items() if not torch.allclose(new, found["plain"])]
    print(f"{kind.__name__}: not the plain step: {', '.join(wrong)}")
PYTHON
env/bin/python steps.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
strides of the weights (3, 1) of the preconditioned gradient (1, 4)
Adam: not the plain step: fused
AdamW: not the plain step: fused
SGD: not the plain step: fused
Adagrad: not the plain step: fused
TEXT
diff expected.txt seen.txt && cat seen.txt
