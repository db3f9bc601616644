#!/usr/bin/env bash
# torch.compile refuses vmap of grad over an autograd.Function that has a vmap rule, and advises to give it one.
#
# Versions: torch 2.15.0, numpy 2.4.6; Python 3.11.
# Behaviour: a function with generate_vmap_rule = True works eagerly under vmap, grad, vmap of grad and grad of vmap, and
#   compiled under all of them but vmap of grad, which gives gradients for each sample. There
#   the error says to set generate_vmap_rule = True: dynamo replaces the function by one of its own, which has no rule.
#   A staticmethod vmap, the other way to give a rule, is refused with the same advice, which forbids it.
# Guess: what compiles under vmap and under grad compiles under both; a rule that eager uses is used compiled.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "torch==2.15.0" "numpy==2.4.6"

cat > rules.py <<'PYTHON'
import torch
from torch.func import grad, vmap


class Generated(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Written(Generated):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x):
        return Written.apply(x), in_dims[0]


batch = torch.arange(12.0).reshape(4, 3)
for rule in (Generated, Written):

    def loss(x):
        return rule.apply(x).square().sum()

    functions = {
        "vmap": vmap(loss),
        "grad": grad(loss),
        "grad of vmap": grad(lambda x: vmap(loss)(x).sum()),
        "vmap of grad": vmap(grad(loss)),
    }
    for name, function in functions.items():
        expected = function(batch)
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        try:
            found = "equal" if torch.equal(compiled(batch), expected) else "different"
        except Exception as error:
            advice = "set generate_vmap_rule=True" in str(error)
            found = type(error).__name__ + ", which advises generate_vmap_rule" * advice
        print(rule.__name__, name, "-", found)
PYTHON
env/bin/python -W ignore rules.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
Generated vmap - equal
Generated grad - equal
Generated grad of vmap - equal
Generated vmap of grad - InternalTorchDynamoError, which advises generate_vmap_rule
Written vmap - equal
Written grad - equal
Written grad of vmap - equal
Written vmap of grad - InternalTorchDynamoError, which advises generate_vmap_rule
TEXT
diff expected.txt seen.txt && cat seen.txt
