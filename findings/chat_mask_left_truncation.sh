#!/usr/bin/env bash
# transformers loses every assistant token of a chat from its mask once the chat's first answer is cut off on the left.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3, jinja2 3.1.6; Python 3.11.
# Behaviour: a tokenizer's apply_chat_template(return_assistant_tokens_mask=True) goes through the answers in order and
#   stops at the first whose start is not among the tokens, as if all that follow were lost too. That holds of truncation
#   on the right. With truncation_side="left", which keeps a chat's last turns, the first answer is the first to go, and
#   the answers that are kept whole are marked 0 with it, the last, which is to be learnt, too. Labels made of the mask
#   leave such a chat without loss, silently, and those are the long chats. A first answer that loses only its start
#   takes the others with it as well.
# Guess: an answer's tokens that are kept are marked, on whichever side the chat is cut.
# Seen: what the script compares with at its end: the text kept, and of it what is marked.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "transformers==5.23.0" "tokenizers==0.23.3" "jinja2==3.1.6"

cat > mask.py <<'PYTHON'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
bytes_as_tokens = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
bytes_as_tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
bytes_as_tokens.decoder = decoders.ByteLevel()

template = (
    "{% for message in messages %}{{ message.role[0] + ':' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}|{% endfor %}"
)
chat = []
for question, answer in (("one?", "ONE"), ("two?", "TWO"), ("three?", "THREE")):
    chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

for side in ("right", "left"):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_as_tokens, chat_template=template, truncation_side=side
    )
    for length in (50, 40, 32, 28, 14):
        out = tokenizer.apply_chat_template(
            chat, return_dict=True, return_assistant_tokens_mask=True, truncation=True, max_length=length
        )
        kept = tokenizer.decode(out["input_ids"])
        marked = "".join(c if m else "." for c, m in zip(kept, out["assistant_masks"], strict=True))
        print(f"{side} {length}\n{kept}\n{marked}")
PYTHON
env/bin/python mask.py > seen.txt 2> errors.txt || { cat errors.txt; exit 1; }

cat > expected.txt <<'TEXT'
right 50
u:one?|a:ONE|u:two?|a:TWO|u:three?|a:THREE|
.........ONE..........TWO............THREE.
right 40
u:one?|a:ONE|u:two?|a:TWO|u:three?|a:THR
.........ONE..........TWO............THR
right 32
u:one?|a:ONE|u:two?|a:TWO|u:thre
.........ONE..........TWO.......
right 28
u:one?|a:ONE|u:two?|a:TWO|u:
.........ONE..........TWO...
right 14
u:one?|a:ONE|u
.........ONE..
left 50
u:one?|a:ONE|u:two?|a:TWO|u:three?|a:THREE|
.........ONE..........TWO............THREE.
left 40
ne?|a:ONE|u:two?|a:TWO|u:three?|a:THREE|
......ONE..........TWO............THREE.
left 32
E|u:two?|a:TWO|u:three?|a:THREE|
................................
left 28
two?|a:TWO|u:three?|a:THREE|
............................
left 14
hree?|a:THREE|
..............
TEXT
diff expected.txt seen.txt && cat seen.txt
