#!/usr/bin/env bash
# Flashbax gives new items the largest priority without its fraction: 1.99 becomes 1, half of it.
#
# Versions: flashbax 0.1.3, jax 0.10.2; Python 3.11.
# Behaviour: add is to give the items that it makes the largest priority ever set, as prioritised replay does so
#   that what has not been learnt from comes first. It writes that number into an array made like that of the
#   items' indices, so as an integer, in all three prioritised buffers. With TD errors of up to 1.99, a new item
#   is half as probable as the one of the largest error; with errors of up to 2, just as probable.
# Guess: a new item is as probable as the old one of the largest priority.
# Seen: it is, where that priority is a whole number, or set by hand.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "flashbax==0.1.3" "jax==0.10.2"

cat > priorities.py <<'PYTHON'
import flashbax
import jax
import jax.numpy as jnp

buffer = flashbax.make_prioritised_item_buffer(
    max_length=64, min_length=1, sample_batch_size=64, priority_exponent=1.0
)
add, sample, set_priorities = jax.jit(buffer.add), jax.jit(buffer.sample), jax.jit(buffer.set_priorities)


def probability(state, item):
    """The probability with which the buffer says it samples an item."""
    batch = sample(state, jax.random.key(0))
    return float(batch.probabilities[jnp.argmax(batch.experience["item"] == item)])


for largest in (1.0, 1.5, 1.99, 2.0, 3.9, 4.0):
    state = add(buffer.init({"item": jnp.array(0)}), {"item": jnp.array(1)})
    index = sample(state, jax.random.key(0)).indices[:1]
    state = set_priorities(state, index, jnp.array([largest]))
    state = add(state, {"item": jnp.array(2)})
    shares = f"old {probability(state, 1):.3f}, new {probability(state, 2):.3f}"
    by_hand = set_priorities(state, index + 1, jnp.array([largest]))
    print(f"largest priority {largest:4}: {shares}; set by hand: new {probability(by_hand, 2):.3f}")
PYTHON
JAX_PLATFORMS=cpu env/bin/python priorities.py | tee seen.txt

diff seen.txt - <<'EXPECTED'
largest priority  1.0: old 0.500, new 0.500; set by hand: new 0.500
largest priority  1.5: old 0.600, new 0.400; set by hand: new 0.500
largest priority 1.99: old 0.666, new 0.334; set by hand: new 0.500
largest priority  2.0: old 0.500, new 0.500; set by hand: new 0.500
largest priority  3.9: old 0.565, new 0.435; set by hand: new 0.500
largest priority  4.0: old 0.500, new 0.500; set by hand: new 0.500
EXPECTED
