#!/usr/bin/env bash
# Two verified tasks of Reasoning Gym pay the full reward for a constant answer, one of them for any text.
#
# Versions: reasoning-gym 0.1.25; Python 3.11.
# Behaviour: game_of_life_halting compares bool(answer) with bool(entry["answer"]): both are strings, so "False" is true,
#   and whatever is not empty scores 1.0. puzzle24 checks that an expression gives 24 and has four numbers within the
#   range of all puzzles, not that they are the puzzle's: one expression scores 1.0 everywhere. A policy trained on
#   the rewards ("algorithmically verifiable") needs one answer, and the mean reward looks like a solved task.
#   countdown, the same kind of puzzle, does compare the numbers.
# Guess: a score of 1.0 means a right answer to the question that was asked.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "reasoning-gym==0.1.25"

cat > score.py <<'PYTHON'
from collections import Counter

import reasoning_gym

SIZE = 20


def full(dataset, entries, answer):
    """Return how many of the questions the answer gets the full reward for."""
    return sum(dataset.score_answer(answer, entry) == 1.0 for entry in entries)


halting, puzzle, countdown = (
    reasoning_gym.create_dataset(name, size=SIZE, seed=0) for name in ("game_of_life_halting", "puzzle24", "countdown")
)
entries = list(halting)
print("game_of_life_halting: right answers", dict(sorted(Counter(entry["answer"] for entry in entries).items())))
for answer in ("True", "False", "I do not know."):
    print(f"game_of_life_halting: {answer!r} has the full reward for {full(halting, entries, answer)} of {SIZE}")

entries, answer = list(puzzle), "(1 + 2 + 3) * 4"
asked = sum(sorted(entry["metadata"]["numbers"]) == [1, 2, 3, 4] for entry in entries)
print(f"puzzle24: {asked} of {SIZE} puzzles ask for 1, 2, 3 and 4")
print(f"puzzle24: {answer!r} has the full reward for {full(puzzle, entries, answer)} of {SIZE}")

entries = list(countdown)
answer = entries[0]["answer"]
print(f"countdown: the first one's answer has the full reward for {full(countdown, entries, answer)} of {SIZE}")
PYTHON
env/bin/python -W ignore score.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
game_of_life_halting: right answers {'False': 11, 'True': 9}
game_of_life_halting: 'True' has the full reward for 20 of 20
game_of_life_halting: 'False' has the full reward for 20 of 20
game_of_life_halting: 'I do not know.' has the full reward for 20 of 20
puzzle24: 0 of 20 puzzles ask for 1, 2, 3 and 4
puzzle24: '(1 + 2 + 3) * 4' has the full reward for 20 of 20
countdown: the first one's answer has the full reward for 1 of 20
TEXT
diff expected.txt seen.txt && cat seen.txt
