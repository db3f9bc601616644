#!/usr/bin/env bash
# moviepy repeats a quarter of an image sequence's frames under NumPy 2, and loses as many.
#
# Versions: moviepy 2.2.1 with numpy 2.4.6, beside numpy 1.26.4; imageio-ffmpeg 0.6.0; Python 3.11.
# Behaviour: ImageSequenceClip(frames, fps=30).write_videofile writes 1,000 frames, but 257 of them stand
#   twice and 257 never. SB3's VecVideoRecorder and gymnasium's RecordVideo write their videos this way.
#   Under NumPy 1 each frame stands once. A clip's start times are i / fps minus np.finfo(np.float32).eps:
#   since NumPy 2 (NEP 50) a Python float minus a float32 scalar is a float32, so the times are rounded to
#   seven digits, and the frame of time i / fps is the one before wherever that rounded upwards.
# Guess: a video of n frames at the clip's own rate has each frame once.
# Seen: numpy 1.26.4: 1000 frames, 0 repeated, 0 lost
#       numpy 2.4.6: 1000 frames, 257 repeated, 257 lost
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat > count.py <<'PYTHON'
import collections

import imageio_ffmpeg
import numpy as np
from moviepy import ImageSequenceClip

COUNT, BITS, SIZE = 1000, 10, 16


def numbered(number):
    """Return a frame whose columns are the number's bits."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), SIZE)
    return np.broadcast_to(row[None, :, None], (64, BITS * SIZE, 3)).copy()


ImageSequenceClip([numbered(i) for i in range(COUNT)], fps=30).write_videofile(
    "numbered.mp4", logger=None
)
reader = imageio_ffmpeg.read_frames("numbered.mp4")
next(reader)  # what the file says of itself
seen = collections.Counter()
for raw in reader:
    frame = np.frombuffer(raw, np.uint8).reshape(64, BITS * SIZE, 3)
    middle = frame[32, SIZE // 2 :: SIZE, 0] > 127
    seen[sum(int(bit) << i for i, bit in enumerate(middle))] += 1
repeated = sum(times > 1 for times in seen.values())
print(f"numpy {np.__version__}: {seen.total()} frames, {repeated} repeated, {COUNT - len(seen)} lost")
PYTHON

for numpy in 1.26.4 2.4.6; do
    python3 -m venv "numpy-$numpy"
    "numpy-$numpy/bin/python" -m pip install --quiet "numpy==$numpy" "moviepy==2.2.1" "imageio-ffmpeg==0.6.0"
    "numpy-$numpy/bin/python" count.py
done | tee seen.txt

diff seen.txt - <<'EXPECTED'
numpy 1.26.4: 1000 frames, 0 repeated, 0 lost
numpy 2.4.6: 1000 frames, 257 repeated, 257 lost
EXPECTED
