#!/usr/bin/env bash
# torch.compile of a closure takes its sizes for variables if another closure of the same line had other sizes before.
#
# Versions: torch 2.15.0, numpy 2.4.6; Python 3.11.
# Behaviour: each call of torch.compile here has a function of its own, called with one size alone. The first graph is for
#   that size; every later one is for variable sizes, as if its function had been called with several, and keeps that for
#   the rest of the process: what has changed is remembered by file, line and name. Of modules it is not so.
# Guess: functions that are compiled apart are specialised apart, as modules are; the second agent of a script gets
#   code as good as the first one's.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torch==2.15.0" "numpy==2.4.6"

cat > sizes.py <<'PYTHON'
import torch
from torch import nn


class Loss(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, width))

    def forward(self, x):
        return (x @ self.weight).square().mean()


def closure(width):
    weight = torch.ones(width, width, requires_grad=True)

    def loss(x):
        return (x @ weight).square().mean()

    return loss


for make in (Loss, closure):
    for width in (64, 96, 128):
        variables = []

        def backend(graph, examples):
            variables.extend(x for x in examples if isinstance(x, torch.SymInt))
            return graph

        torch.compile(make(width), backend=backend)(torch.ones(8, width))
        print(make.__name__, width, "has", len(variables), "variable sizes")
PYTHON
env/bin/python -W ignore sizes.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
Loss 64 has 0 variable sizes
Loss 96 has 0 variable sizes
Loss 128 has 0 variable sizes
closure 64 has 0 variable sizes
closure 96 has 2 variable sizes
closure 128 has 2 variable sizes
TEXT
diff expected.txt seen.txt && cat seen.txt
