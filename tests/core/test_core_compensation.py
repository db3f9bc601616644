"""The learned compensation meets the floor in expectation and never leaves its feasible range."""

import pytest
import torch

from era_rl.core import LearnedDelta, delta_loss, gaussian_era, truncated_normal_entropy
from era_rl.core.truncation import GAUSSIAN_CONSTANT


@pytest.mark.parametrize("floor", [-0.5, 0.25])
def test_learned_delta_brings_the_truncated_entropy_to_the_target(floor) -> None:
    action_dim = 6
    target = floor * action_dim
    loc = torch.tanh(torch.randn(512, action_dim))
    raw = torch.randn(512, action_dim)
    learned = LearnedDelta(target, action_dim)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    entropy = torch.empty(0)
    for _ in range(400):
        log_std = gaussian_era(raw, target_entropy=target, delta=learned())
        entropy = truncated_normal_entropy(loc, log_std).sum(-1)
        optimizer.zero_grad()
        learned.loss(entropy).backward()
        optimizer.step()
        learned.project()
    assert learned().item() > 0.0
    assert entropy.mean().item() == pytest.approx(target, rel=0.02)


def test_delta_loss_is_the_dual_and_trains_delta_alone() -> None:
    delta = torch.tensor(0.7, requires_grad=True)
    entropy = torch.tensor([1.0, 2.0, 4.5], requires_grad=True)
    loss = delta_loss(delta, entropy, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.7 * 0.5)
    assert delta.grad.item() == pytest.approx(0.5)
    assert entropy.grad is None
    assert not LearnedDelta(-1.0, 2)().requires_grad


def test_delta_stays_feasible() -> None:
    learned = LearnedDelta(-1.0, 2, log_std_max=0.5, initial=0.3)
    assert learned.delta_max == pytest.approx(2 * (0.5 + GAUSSIAN_CONSTANT) + 1.0)
    raw = torch.randn(100, 2)
    for wound_up, kept in ((100.0, learned.delta_max), (-5.0, 0.0)):
        with torch.no_grad():
            learned.parameter.fill_(wound_up)
        assert learned().item() == pytest.approx(kept)
        assert (
            gaussian_era(raw, target_entropy=-1.0, log_std_max=0.5, delta=learned())
            .isfinite()
            .all()
        )
        learned.project()
        assert learned.parameter.item() == pytest.approx(kept)


def test_state_dict_round_trip() -> None:
    saved, loaded = LearnedDelta(-1.0, 2, initial=0.4), LearnedDelta(-1.0, 2)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded(), saved())
