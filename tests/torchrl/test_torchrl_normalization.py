"""Observation normalisation of stacked agents: statistics of all data so far, one set an agent."""

import torch

from era_rl.torchrl.normalization import AgentObservationNorm


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    scale = torch.tensor([1.0, 0.01, 100.0])
    data = 3.0 + torch.randn(2, 500, 3) * scale
    data[1] *= 2.0
    norm = AgentObservationNorm(2, 3)
    for part in data.split([1, 99, 300, 100], dim=1):
        norm.update(part)
    torch.testing.assert_close(norm[0].loc, data.mean(1, keepdim=True), rtol=1e-4, atol=1e-4)
    deviation = data.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(norm[0].scale, deviation, rtol=1e-3, atol=0.0)
    expected = (data - data.mean(1, keepdim=True)) / deviation
    torch.testing.assert_close(norm(data), expected, rtol=1e-2, atol=1e-2)


def test_an_observation_that_never_changes_stays_finite() -> None:
    norm = AgentObservationNorm(1, 2)
    for _ in range(5):
        norm.update(torch.full((1, 100, 2), 0.3))
    assert norm(torch.full((1, 4, 2), 0.3)).abs().amax() <= 1e-2
    assert torch.equal(norm(torch.full((1, 4, 2), 7.0)), torch.full((1, 4, 2), 10.0))


def test_before_the_first_update_observations_are_only_clipped() -> None:
    x = torch.tensor([[[-30.0, 0.5, 20.0]]])
    assert torch.equal(AgentObservationNorm(1, 3)(x), torch.tensor([[[-10.0, 0.5, 10.0]]]))
