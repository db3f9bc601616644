#!/usr/bin/env bash
# torch's ONNX exporter turns erfc(x) into 1 - erf(x): the tail, which erfc is there for, becomes 0.
#
# Versions: torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6; Python 3.11.
# Behaviour: ONNX has Erf alone, so torch.onnx.export(dynamo=True) writes the complement as a difference from
#   one. In float32 nothing is left of it beyond x = 4: no warning, and a comparison on inputs of usual size
#   finds equal results. A truncated normal's samples, or any tail probability, computed from erfc in the
#   exported file are wrong where the distribution is narrow or far from its bound.
# Guess: an operator without a counterpart is refused, or written by a formula that holds where it is used.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python \
    "torch==2.15.0" "onnx==1.23.2" "onnxscript==0.7.2" "onnxruntime==1.32.0" "numpy==2.4.6"

cat > tail.py <<'PYTHON'
import onnxruntime
import torch


class Tail(torch.nn.Module):
    def forward(self, x):
        return torch.erfc(x)


x = torch.tensor([1.0, 3.0, 4.5, 6.0])
torch.onnx.export(Tail(), (x,), dynamo=True, verbose=False).save("tail.onnx")
session = onnxruntime.InferenceSession("tail.onnx")
(exported,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
for value, eager, other in zip(x.tolist(), torch.erfc(x).tolist(), exported.tolist()):
    print(f"erfc({value}): torch {eager:.3g}, ONNX {other:.3g}")
PYTHON
env/bin/python tail.py 2> errors.txt | grep '^erfc' | tee seen.txt || { cat errors.txt; exit 1; }

diff seen.txt - <<'EXPECTED'
erfc(1.0): torch 0.157, ONNX 0.157
erfc(3.0): torch 2.21e-05, ONNX 2.21e-05
erfc(4.5): torch 1.97e-10, ONNX 0
erfc(6.0): torch 2.15e-17, ONNX 0
EXPECTED
