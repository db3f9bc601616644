"""Observation normalisation of stacked agents: statistics of all data so far, one set an agent."""

import torch

from era_rl.networks import RunningNorm


def test_each_agent_is_standardised_by_its_own_data_so_far() -> None:
    """(x - mean_a) / std_a within [-10, 10], in parts as in the whole."""
    data = 3.0 + torch.randn(2, 500, 3) * torch.tensor([1.0, 0.01, 100.0])
    data[1] *= 2.0
    norm = RunningNorm(2, 3)
    for part in data.split([1, 99, 300, 100], dim=1):
        norm.update(part)
    deviation, mean = torch.std_mean(data, 1, correction=0, keepdim=True)
    expected = (data - mean) / deviation
    torch.testing.assert_close(norm(data), expected, rtol=1e-2, atol=1e-2)
    far = norm(data + 1e4 * deviation)
    assert torch.equal(far, torch.full_like(far, 10.0))


def test_before_the_first_update_observations_are_only_clipped() -> None:
    x = torch.tensor([[[-30.0, 0.5, 20.0]]])
    assert torch.equal(RunningNorm(1, 3)(x), torch.tensor([[[-10.0, 0.5, 10.0]]]))
