#!/usr/bin/env bash
# Math-Verify adds the digit groups of a LaTeX number up: 12\,345 is 357, and 357 is the answer it rewards.
#
# Versions: math-verify 0.9.0, latex2sympy2-extended 1.11.0, antlr4-python3-runtime 4.13.2; Python 3.11.
# Behaviour: between groups of digits a thin space, the SI's mark of thousands, is read as the sign of a mixed number or
#   of a product: 299\,792\,458 is 299 + 792 + 458, and 10\,000 is 10 * 0. As the reward of a mathematical answer this is 0
#   for the right one and 1 for the wrong one, whether the number is the model's or the reference's, and what the
#   parser does not know is not left as text, as it is elsewhere. Commas, \! and, outside LaTeX, spaces are read right.
# Guess: a number of grouped digits is that number; what the parser does not know is not parsed.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "math-verify==0.9.0" "latex2sympy2-extended==1.11.0" \
    "antlr4-python3-runtime==4.13.2"

cat > score.py <<'PYTHON'
from math_verify import parse, verify


def rewarded(gold, answer):
    return verify(parse(f"${gold}$"), parse(f"The answer is $\\boxed{{{answer}}}$."))


for written, right, wrong in (
    (r"12\,345", "12345", "357"),
    (r"299\,792\,458", "299792458", "1549"),
    (r"10\,000", "10000", "0"),
    (r"12\!345", "12345", "357"),
    (r"12,345", "12345", "357"),
):
    print(f"{written} as the answer to {right}: {rewarded(right, written)},", end=" ")
    print(f"to {wrong}: {rewarded(wrong, written)};", end=" ")
    print(f"as the reference, {right}: {rewarded(written, right)}, {wrong}: {rewarded(written, wrong)}")
PYTHON
env/bin/python score.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
12\,345 as the answer to 12345: False, to 357: True; as the reference, 12345: False, 357: True
299\,792\,458 as the answer to 299792458: False, to 1549: True; as the reference, 299792458: False, 1549: True
10\,000 as the answer to 10000: False, to 0: True; as the reference, 10000: False, 0: True
12\!345 as the answer to 12345: True, to 357: False; as the reference, 12345: True, 357: False
12,345 as the answer to 12345: True, to 357: False; as the reference, 12345: True, 357: False
TEXT
diff expected.txt seen.txt && cat seen.txt
