"""The policy loss of docs/tutorials/verl_loss.py: without verl its gradient, with verl its place."""

import os
import runpy
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from era_llm.functional import (
    era_logps,
    era_scale,
    selected_logps,
    token_entropies,
    top_entropy_mean,
)

PROMPTS, LENGTHS, V = (2, 1, 3), (4, 2, 3), 40
TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
LOW, HIGH = 0.45, 3.0  # those of the module
ADVANTAGES = torch.tensor([1.0, 0.5, -0.7])[:, None].expand(3, max(LENGTHS))


def _logits() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    rows = sum(PROMPTS) + sum(LENGTHS)
    sharpness = torch.repeat_interleave(torch.tensor([99.0, 0.1, 2.0]), torch.tensor([6, 3, 6]))
    return torch.randn(rows, V) * sharpness[:, None], torch.randint(V, (rows,))


def _padded(packed: Tensor) -> Tensor:
    """Return the positions that score response tokens, one before each, padded as verl does."""
    ends = (torch.tensor(PROMPTS) + torch.tensor(LENGTHS)).cumsum(0).tolist()
    found = [packed[end - n - 1 : end - 1] for end, n in zip(ends, LENGTHS, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


def _mask() -> Tensor:
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def _expected(loss: Any) -> Tensor:
    """Return the gradient of a loss of padded log-probabilities with respect to packed logits."""
    logits, labels = _logits()
    entropies = _padded(token_entropies(logits))
    h_resp = top_entropy_mean(entropies, _mask())
    scale = era_scale(h_resp, ADVANTAGES[:, 0], LOW, HIGH)
    assert scale.tolist() == [2.0, 0.5, 1.0]
    rows = torch.repeat_interleave(scale, torch.tensor([6, 3, 6]))
    logits.requires_grad_()
    return torch.autograd.grad(loss(_padded(era_logps(logits, labels, rows))), logits)[0]


def _surrogate(old: Tensor, logp: Tensor, advantages: Tensor, mask: Tensor, *_: Any) -> Any:
    return -((logp - old).exp() * advantages * mask).sum() / mask.sum(), {"host": 1.0}


def _loss() -> Any:
    """Return the module's class on functions that stand in for verl's."""
    module = runpy.run_path(str(TUTORIALS / "verl_loss.py"))
    return module["ERAPolicyLoss"](lambda z, y, _: selected_logps(z, y), _surrogate, LOW, HIGH)


def test_the_gradient_is_that_of_era_logps_and_values_are_verls() -> None:
    """d loss / d logits of packed rows, prompts among them, equals that of `era_logps` by hand."""
    era = _loss()
    logits, labels = _logits()
    logits.requires_grad_()
    log_prob = _padded(era.logprobs_from_logits(logits, labels))
    old = log_prob.detach()
    loss, metrics = era.policy_loss(old, log_prob, ADVANTAGES, _mask())
    expected = _expected(lambda logp: _surrogate(old, logp, ADVANTAGES, _mask())[0])
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)
    assert metrics["host"] == 1.0
    assert metrics["actor/era_sharpened"] == pytest.approx(1 / 3)
    with torch.no_grad():
        assert torch.equal(era.logprobs_from_logits(logits, labels), selected_logps(logits, labels))


def test_what_would_lose_the_gradient_is_refused() -> None:
    era = _loss()
    foreign = torch.zeros(3, 4, requires_grad=True) * 1.0
    with pytest.raises(RuntimeError, match="policy loss era needs logits: name this module in"):
        era.policy_loss(foreign, foreign, ADVANTAGES, _mask())
    era.logprobs_from_logits(*_logits())
    with pytest.raises(RuntimeError, match="policy loss era needs logits"):
        era.policy_loss(foreign, foreign, ADVANTAGES, _mask())
    with_kl = SimpleNamespace(use_kl_loss=True)
    with pytest.raises(ValueError, match="use_kl_loss must be False with ERA"):
        era.policy_loss(foreign, foreign, ADVANTAGES, _mask(), config=with_kl)


@pytest.mark.slow
def test_verl_takes_it_for_a_policy_loss_of_its_own() -> None:
    """The signature is "vanilla"'s; verl's ppo_loss, on packed rows, has the gradient of `era_logps`.

    verl excludes this project's versions, so it is run from an environment of its own.
    """
    pytest.importorskip("verl")
    path = os.pathsep.join([str(TUTORIALS), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "verl_loss"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _in_verl() -> None:
    """What the test above runs in a process of its own, where verl has imported the module."""
    from tensordict import TensorDict
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import ActorConfig
    from verl.workers.engine.fsdp import transformer_impl
    from verl.workers.utils.losses import ppo_loss

    era, host = get_policy_loss_fn("era"), get_policy_loss_fn("vanilla")
    ours, theirs = (signature(f).parameters.values() for f in (era, host))
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in theirs
    ]
    logits, labels = _logits()
    logits.requires_grad_()
    packed = transformer_impl.logprobs_from_logits(logits=logits, labels=labels)
    offsets = torch.tensor([0, 6, 9, 15])
    old = _padded(packed).detach()
    common: Any = {"strategy": "fsdp", "rollout_n": 1, "use_dynamic_bsz": True}
    config = ActorConfig(**common)
    object.__setattr__(config.policy_loss, "loss_mode", "era")

    def jagged(lengths: tuple[int, ...]) -> Tensor:
        parts = [torch.zeros(n, dtype=torch.long) for n in lengths]
        return torch.nested.nested_tensor(parts, layout=torch.jagged)

    data = TensorDict(
        {
            "prompts": jagged(PROMPTS),
            "responses": jagged(LENGTHS),
            "response_mask": _mask(),
            "old_log_probs": old,
            "advantages": ADVANTAGES,
        },
        batch_size=[3],
    )
    for name, value in {"dp_size": 1, "batch_num_tokens": None, "global_batch_size": None}.items():
        data.set_non_tensor(name, value)
    nested = torch.nested.nested_tensor_from_jagged(packed, offsets)
    loss, _ = ppo_loss(config, {"log_probs": nested}, data)
    expected = _expected(lambda logp: host(old, logp, ADVANTAGES, _mask(), "token-mean", config)[0])
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)


if __name__ == "__main__":
    _in_verl()
