"""Network outputs meant to break a floor: mixtures of scales, ties, one-hots and saturated means."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

NARROW = (torch.float16, torch.bfloat16)


def _drawn_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in NARROW else dtype


def _log_uniform(count: int, low: float, high: float, dtype: torch.dtype) -> Tensor:
    return 10.0 ** torch.empty(count, 1, dtype=dtype).uniform_(low, high)


def raw_states(count: int, action_dim: int, dtype: torch.dtype) -> Tensor:
    """Raw outputs (count, 2 action_dim), means first, of scale 1e-3 to 1e4; a third is structured."""
    drawn = _drawn_in(dtype)
    raw = torch.randn(count, 2 * action_dim, dtype=drawn) * _log_uniform(count, -3.0, 4.0, drawn)
    means, log_stds = raw.split(action_dim, dim=-1)
    part = count // 6
    chosen = 1e4 * one_hot(torch.randint(action_dim, (part,)), action_dim).to(drawn)
    means[:part] = 40.0 * means[:part].sign()  # |loc| is exactly 1
    log_stds[part : 2 * part] = torch.where(torch.rand(part, 1) < 0.5, chosen, -chosen)
    # |loc| approaches 1 in the last bits
    approach = torch.empty(part, action_dim, dtype=drawn).uniform_(3.0, 10.0)
    means[2 * part : 3 * part] = approach * means[2 * part : 3 * part].sign()
    return raw.to(dtype)


def logit_rows(count: int, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Logits (count, num_classes) within +-1e4; five eighths are structured."""
    drawn = _drawn_in(dtype)
    logits = torch.randn(count, num_classes, dtype=drawn) * _log_uniform(count, -3.0, 4.0, drawn)
    part = count // 8
    chosen = one_hot(torch.randint(num_classes, (part,)), num_classes).to(drawn)
    logits[:part] = 1e4 * chosen
    logits[part : 2 * part] = -1e4 * chosen
    logits[2 * part : 3 * part] = 1e4 * torch.randn(part, num_classes).sign()
    logits[3 * part : 4 * part] = 20.0 * torch.rand(part, 1) * chosen
    # differences of every scale at once: plateaus of the entropy along a temperature
    wide = torch.empty(part, num_classes, dtype=drawn).uniform_(-31.0, 9.0).exp()
    logits[4 * part : 5 * part] = wide * logits[4 * part : 5 * part].sign()
    return logits.clamp(-1e4, 1e4).to(dtype)
