"""GRPO with ERA on a language model of two layers, offline; then the function alone."""

# --8<-- [start:train]
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # everything below is built in code

import torch

from benchmarks.llm.toy import pretrained_toy, toy_prompts, toy_reward, toy_tokenizer
from era_llm import GRPOERAConfig, GRPOERATrainer, era_logps, era_scale

options = GRPOERAConfig(
    "grpo",
    era_entropy_low=2.5,  # nats; the paper's 0.45 suits its own model, see era-llm calibrate
    per_device_train_batch_size=16,
    num_generations=8,
    max_completion_length=4,
    max_steps=3,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
    bf16=False,
)
trainer = GRPOERATrainer(
    pretrained_toy(0, steps=60),  # a model, or its name
    toy_reward,
    options,
    train_dataset=toy_prompts(),  # columns prompt and answer
    processing_class=toy_tokenizer(),
)
trainer.train()
logs = [log for log in trainer.state.log_history if "era/h_resp" in log]
assert len(logs) == 3
assert any(log["era/frac_sharpened"] > 0 for log in logs)  # ERA acted
# --8<-- [end:train]

# --8<-- [start:function]
# Two responses of one token, both with a positive advantage; the first is too certain.
logits = torch.tensor([[[0.0, 1.0]], [[0.0, 0.1]]], requires_grad=True)
tokens = torch.tensor([[1], [1]])
scale = era_scale(torch.tensor([0.2, 0.7]), torch.tensor([1.0, 1.0]), low=0.45, high=3.0)
assert scale.tolist() == [2.0, 1.0]

logps = era_logps(logits, tokens, scale)
plain = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
assert torch.allclose(logps, plain)  # the value is that of log pi: ratios keep their meaning
logps.sum().backward()
pull = 1 - (scale[:, None, None] * logits.detach()).softmax(-1)[..., 1]
assert torch.allclose(logits.grad[..., 1], pull)  # the gradient is e_y - softmax(s z)
# --8<-- [end:function]
