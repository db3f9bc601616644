#!/usr/bin/env bash
# torchvision's ImageFolder reads 16-bit grey PNGs as white; torchvision.io reads the same files right.
#
# Versions: torchvision 0.29.2 with torch 2.15.0, pillow 12.0.0, numpy 2.4.6; Python 3.11.
# Behaviour: the default loader calls Pillow's Image.convert("RGB"), which clips 16-bit grey values at 255
#   instead of scaling them: of a ramp over the whole range 99.6% of the pixels become 255. No error, no
#   warning: a classifier on microscopy, X-ray or depth images trains on blank pages and is right as often as
#   chance. torchvision.io.decode_image gives the values as uint16.
# Guess: values are scaled to 8 bits, or the file is refused.
# Seen: ImageFolder: RGB, 99.6% of pixels are 255
#       decode_image: torch.uint16, mean 32767
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python \
    "torch==2.15.0" "torchvision==0.29.2" "pillow==12.0.0" "numpy==2.4.6"

cat > read.py <<'PYTHON'
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.io import decode_image

path = Path("images", "ramp", "ramp.png")
path.parent.mkdir(parents=True)
ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(np.uint16)
Image.fromarray(ramp).save(path)

image, _ = ImageFolder("images")[0]
white = (np.asarray(image) == 255).mean()
print(f"ImageFolder: {image.mode}, {white:.1%} of pixels are 255")
values = decode_image(str(path))
print(f"decode_image: {values.dtype}, mean {values.double().mean():.0f}")
PYTHON
env/bin/python read.py | tee seen.txt

diff seen.txt - <<'EXPECTED'
ImageFolder: RGB, 99.6% of pixels are 255
decode_image: torch.uint16, mean 32767
EXPECTED
