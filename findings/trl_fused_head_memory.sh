#!/usr/bin/env bash
# On a CPU, TRL's fused head, which is there to spare the logits, takes 2.7 times the memory of having them, and more time.
#
# Versions: trl 1.16.0, transformers 5.23.0, torch 2.15.0; Python 3.11.
# Behaviour: add_fused_lm_head, which SFT, DPO, KTO, GRPO and RLOO trainers put on every model, scores tokens "without
#   materializing the (batch, seq_len, vocab) logits": in tiles of up to 4096 tokens and 32768 words. Without Triton a
#   tile is folded by a dozen operations of torch, each of which makes a tensor of its size, so where the logits of
#   a batch fit into one tile, as below, all of them are made several times over.
# Guess: a loss in chunks takes less memory than the logits that it does without, at some price in time.
# Seen: what the script compares with at its end. The first two lines are of the machine and not compared.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "trl==1.16.0" "transformers==5.23.0" "torch==2.15.0"

cat > peak.py <<'PYTHON'
import resource
import sys
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

torch.set_num_threads(1)
torch.manual_seed(0)
sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
model = Qwen2ForCausalLM(Qwen2Config(vocab_size=32_000, num_key_value_heads=4, **sizes))
options = {"use_cache": False}
if sys.argv[1] == "fused":
    add_fused_lm_head(model)
    options = {"fused_lm_head": True}
ids = torch.randint(32_000, (8, 128))


def step(ids):
    model.zero_grad(set_to_none=False)
    loss = model(input_ids=ids, labels=ids, **options).loss
    loss.backward()
    return loss.item()


step(ids[:1, :2])  # the gradients are there, and what torch sets up
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
loss = step(ids)
seconds = time.process_time() - started
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, seconds, loss)
PYTHON
export HF_HUB_OFFLINE=1
read -r logits_mib logits_s logits_loss < <(env/bin/python peak.py logits 2> errors.txt) || { cat errors.txt; exit 1; }
read -r fused_mib fused_s fused_loss < <(env/bin/python peak.py fused 2> errors.txt) || { cat errors.txt; exit 1; }
echo "with logits: $logits_mib MiB above the model, $logits_s s of CPU time"
echo "fused head:  $fused_mib MiB, $fused_s s"

python3 - $logits_mib $logits_s $logits_loss $fused_mib $fused_s $fused_loss > seen.txt <<'PYTHON'
import sys

mib, seconds, loss, fused_mib, fused_seconds, fused_loss = map(float, sys.argv[1:])
print(f"same loss: {abs(loss - fused_loss) < 1e-4}")
print(f"the logits themselves: {8 * 128 * 32_000 * 4 / 2**20:.0f} MiB")
print(f"more than 1.5 times the memory: {fused_mib > 1.5 * mib}")
print(f"more time: {fused_seconds > seconds}")
PYTHON
cat seen.txt
diff seen.txt - <<'EXPECTED'
same loss: True
the logits themselves: 125 MiB
more than 1.5 times the memory: True
more time: True
EXPECTED
