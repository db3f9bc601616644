"""The blocks of era_rl.networks: golden values, equations, properties."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from era_rl.networks import BatchNormMLP, CategoricalValue, RewardScale, RunningNorm, SimbaEncoder
from era_rl.networks.batch_norm import UnitRowAdam
from era_rl.networks.moments import Moments, merge_moments
from era_rl.networks.simba import SimbaBlock
from era_rl.networks.values import (
    categorical_loss,
    categorical_mean,
    least_categorical,
    project_categorical,
    value_bins,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-12, atol=1e-12)


def loaded(module: nn.Module, golden: dict[str, Any]) -> Any:
    module.double().load_state_dict({k: tensor(v) for k, v in golden["parameters"].items()})
    return module


class TestSimba:
    def test_a_block_has_its_golden_values(self) -> None:
        """x + W2 relu(W1 LayerNorm(x) + b1) + b2."""
        golden = GOLDEN["simba_block"]
        same(loaded(SimbaBlock(3, expansion=2), golden)(tensor(golden["x"])), golden["y"])

    def test_an_encoder_normalises_each_result(self) -> None:
        """LayerNorm comes last: mean 0 and variance 1 over the features, any leading dimensions."""
        out = SimbaEncoder(3, 16, 2)(torch.randn(4, 5, 3))
        assert out.shape == (4, 5, 16)
        torch.testing.assert_close(out.mean(-1), torch.zeros(4, 5), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var(-1, correction=0), torch.ones(4, 5), atol=1e-2, rtol=0)

    def test_a_block_differentiates(self) -> None:
        """Autograd's gradient is the finite difference's."""
        assert torch.autograd.gradcheck(
            SimbaBlock(3).double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        )

    def test_weights_begin_as_published(self) -> None:
        """W W^T = I of the first layer, std sqrt(2 / inputs) of a block's, no bias."""
        encoder = SimbaEncoder(300, 256, 1)
        first, block = encoder[0], encoder[1]
        torch.testing.assert_close(first.weight @ first.weight.T, torch.eye(256))
        for layer, inputs in ((block.up, 256), (block.down, 1_024)):
            assert layer.weight.std().item() == pytest.approx((2.0 / inputs) ** 0.5, rel=0.02)
        assert not any(layer.bias.any() for layer in (first, block.up, block.down))

    @pytest.mark.parametrize("name", ["width", "blocks"])
    def test_refuses_empty_sizes(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            SimbaEncoder(3, **{"width": 8, "blocks": 1, name: 0})


class TestBatchNorm:
    def test_a_network_has_its_golden_values(self) -> None:
        """g (x - m) / sqrt(v + 1e-3) + b by running and by batch statistics; momentum .99."""
        golden = GOLDEN["batch_norm_mlp"]
        network, x = loaded(BatchNormMLP(3, [2, 2]), golden), tensor(golden["x"])
        same(network.eval()(x), golden["running"])
        same(network.train()(x), golden["by_batch"])
        for name, expected in golden["absorbed"].items():
            same(network.state_dict()[name], expected)

    def test_statistics_move_under_torch_func(self) -> None:
        """Copies in a functional call move as buffers do, which stay; gradients are autograd's."""
        network, x = BatchNormMLP(3, [4]), torch.randn(6, 3)
        parameters = {name: value.detach() for name, value in network.named_parameters()}
        before = {name: value.clone() for name, value in network.named_buffers()}

        def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
            moved = {name: value.clone() for name, value in network.named_buffers()}
            return functional_call(network, {**parameters, **moved}, x).square().mean(), moved

        gradients, (_, moved) = grad_and_value(loss, has_aux=True)(parameters)
        assert all(torch.equal(before[name], value) for name, value in network.named_buffers())
        network(x).square().mean().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad)
        torch.testing.assert_close(moved, dict(network.named_buffers()))

    def test_rows_have_unit_norm_after_each_step(self) -> None:
        """|w_i| = 1 for each row, directions those of Adam's step; vectors are Adam's."""
        layer, free = nn.Linear(3, 4), nn.Linear(3, 4)
        optimizer = UnitRowAdam(layer.parameters(), lr=0.1)
        free.load_state_dict(layer.state_dict())
        reference = torch.optim.Adam(free.parameters(), lr=0.1)
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(4))
        for each, step in ((layer, optimizer), (free, reference)):
            each(torch.ones(2, 3)).square().sum().backward()
            step.step()
        torch.testing.assert_close(layer.weight, F.normalize(free.weight, dim=1))
        torch.testing.assert_close(layer.bias, free.bias)
        weight = torch.randn(2, 4, 3)
        stacked = nn.Parameter(weight.clone())
        UnitRowAdam([stacked], stacked=1)
        torch.testing.assert_close(stacked.data * weight.norm(dim=-1, keepdim=True), weight)

    @pytest.mark.parametrize("widths", [[], [4, 0]])
    def test_refuses_no_or_empty_layers(self, widths: list[int]) -> None:
        with pytest.raises(ValueError, match=r"widths=.* must be one or more numbers"):
            BatchNormMLP(3, widths)


class TestMoments:
    def test_equal_numpy_s_over_the_whole_stream(self) -> None:
        """mean and var of the concatenated batches, far from zero, of batches of one too."""
        stream = 1e3 + np.random.default_rng(0).normal(size=(300, 3)) * [1e-2, 1.0, 1e3]
        norm = RunningNorm(3)
        for batch in np.split(stream, [1, 2, 40, 299]):
            norm.update(torch.as_tensor(batch))
        np.testing.assert_allclose(norm.mean, stream.mean(0), rtol=1e-12)
        np.testing.assert_allclose(norm.var, stream.var(0), rtol=1e-8)
        x = torch.as_tensor(stream[:5])
        expected = (stream[:5] - stream.mean(0)) / np.sqrt(stream.var(0) + 1e-8)
        np.testing.assert_allclose(norm(x), expected, rtol=1e-9, atol=1e-9)

    def test_batched_is_looped(self) -> None:
        """Leading dimensions are streams of their own."""
        stream = torch.randn(4, 7, 2)
        both = RunningNorm(4, 2)
        both.update(stream[:, :3])
        both.update(stream[:, 3:])
        for i, part in enumerate(stream):
            one = RunningNorm(2)
            one.update(part)
            torch.testing.assert_close(both.mean[i], one.mean)
            torch.testing.assert_close(both.var[i], one.var)

    def test_is_a_pure_function_under_vmap(self) -> None:
        """vmap over streams gives what a loop gives, and changes no argument."""
        moments = Moments(torch.ones(4), torch.randn(4, 2), torch.rand(4, 2))
        batch = torch.randn(4, 5, 2)
        looped = [merge_moments(Moments(*m), b) for *m, b in zip(*moments, batch, strict=True)]
        batched = vmap(merge_moments)(moments, batch)
        torch.testing.assert_close(batched.var, torch.stack([m.var for m in looped]))

    def test_only_clips_before_the_first_update(self) -> None:
        norm = RunningNorm(2)
        assert torch.allclose(norm(torch.tensor([[3.0, -40.0]])), torch.tensor([[3.0, -10.0]]))
        assert norm(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


class TestRewardScale:
    @pytest.mark.parametrize("bound", [5, 1])
    def test_has_its_golden_values(self, bound: int) -> None:
        """max(std, (|mean| + 2 std) / bound) of G, G_t = .9 G_{t-1} + r_t within an episode."""
        golden, scale = GOLDEN["reward_scale"], RewardScale(0.9, bound, 2)
        for rewards, dones in zip(golden["rewards"], golden["dones"], strict=True):
            scale.update(tensor(rewards), tensor(dones))
        same(scale(), [golden[f"scale_bound_{bound}"]])

    def test_keeps_returns_that_hardly_vary_within_the_bound(self) -> None:
        """|G| near 100 for a reward of one in each step: at most 5 after scaling, not 100 / std."""
        scale = RewardScale(0.99, 5.0, 1)
        for _ in range(5_000):
            scale.update(torch.ones(1), torch.zeros(1))
        assert 4.0 < 100.0 / scale().item() <= 5.0

    def test_one_lucky_episode_does_not_make_rewards_small(self) -> None:
        """10,000 returns of std 1 and one of 50: the scale stays near 1, it does not become 50 / 5."""
        scale = RewardScale(0.0, 5.0, 1)
        for reward in torch.randn(10_000, dtype=torch.float64):
            scale.update(reward[None], torch.zeros(1))
        scale.update(torch.tensor([50.0]), torch.ones(1))
        assert scale().item() == pytest.approx(1.0, abs=0.15)

    def test_loads_with_another_number_of_environments(self) -> None:
        scale, other = RewardScale(0.9, 5.0, 3), RewardScale(0.9, 5.0, 1)
        scale.update(torch.ones(3), torch.zeros(3))
        other.load_state_dict(scale.state_dict())
        assert torch.equal(other.returns, scale.returns)
        other.update(torch.ones(2), torch.zeros(2))
        assert other.returns.tolist() == [1.0, 1.0]
        assert other.moments.count == 5

    @pytest.mark.parametrize(("gamma", "bound"), [(1.5, 5.0), (0.9, 0.0)])
    def test_refuses_what_is_out_of_range(self, gamma: float, bound: float) -> None:
        with pytest.raises(ValueError, match=r"gamma=1\.5 must be|bound=0\.0 must be"):
            RewardScale(gamma, bound, 1)


class TestValues:
    def test_have_their_golden_values(self) -> None:
        """p_i = sum_j p_j max(0, 1 - |clamp(v_j) - z_i| / dz); -sum p log q; q . z."""
        golden = {k: tensor(v) for k, v in GOLDEN["categorical"].items()}
        projected = project_categorical(golden["probs"], golden["values"], golden["z"])
        torch.testing.assert_close(projected, golden["projected"])
        loss = categorical_loss(golden["logits"], golden["projected"])
        torch.testing.assert_close(loss, golden["loss"])
        torch.testing.assert_close(categorical_mean(golden["logits"], golden["z"]), golden["mean"])

    def test_projection_keeps_mass_and_the_mean_within_the_bins(self) -> None:
        """sum p = 1 and p . z = sum_j p_j v_j where -5 <= v_j <= 5, at bins and ends too."""
        z = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)
        probs = torch.randn(7, 3, 101, dtype=torch.float64).softmax(-1)
        values = torch.rand(7, 3, 101, dtype=torch.float64) * 10 - 5
        values[0], values[1], values[2] = z, -5.0, 5.0
        projected = project_categorical(probs, values, z)
        torch.testing.assert_close(projected.sum(-1), torch.ones(7, 3, dtype=torch.float64))
        torch.testing.assert_close(projected @ z, (probs * values).sum(-1))
        torch.testing.assert_close(projected[0], probs[0])
        looped = torch.stack(
            [project_categorical(p, v, z) for p, v in zip(probs, values, strict=True)]
        )
        assert torch.equal(looped, projected)

    def test_projection_clamps_beyond_the_bins(self) -> None:
        """All mass beyond an end goes to it, infinities too."""
        z = value_bins(-1.0, 1.0, 3)
        values = torch.tensor([[-9.0, float("inf")]])
        projected = project_categorical(torch.tensor([[0.25, 0.75]]), values, z)
        assert projected.tolist() == [[0.25, 0.0, 0.75]]

    def test_differentiate(self) -> None:
        """Autograd's gradients are finite differences'."""
        z = value_bins(-2.0, 2.0, 5).double()
        logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        values = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)

        def f(logits: Tensor, values: Tensor) -> Tensor:
            projected = project_categorical(logits.softmax(-1), values, z)
            return categorical_loss(logits, projected) + categorical_mean(logits, z)

        assert torch.autograd.gradcheck(f, (logits, values))

    def test_the_least_critic_is_chosen_for_each_state(self) -> None:
        """The distribution whose mean is min_k E[Z_k], not a mixture of both."""
        z, logits = value_bins(-1.0, 1.0, 5), torch.randn(3, 8, 5)
        chosen = least_categorical(logits, z)
        torch.testing.assert_close(chosen @ z, categorical_mean(logits, z).amin(0))

    def test_an_output_layer_gives_the_mean_of_its_logits(self) -> None:
        layer, features = CategoricalValue(4, bins=7, low=-2.0, high=2.0), torch.randn(6, 4)
        mean = layer(features)
        assert mean.shape == (6, 1)
        assert mean.abs().max() <= 2.0
        torch.testing.assert_close(mean[:, 0], layer.logits(features).softmax(-1) @ layer.z)

    @pytest.mark.parametrize(("low", "high", "bins"), [(1.0, 1.0, 5), (0.0, 1.0, 1)])
    def test_refuse_bins_without_a_width(self, low: float, high: float, bins: int) -> None:
        with pytest.raises(ValueError, match=r"low=1\.0 must be below|bins=1 must be at least 2"):
            CategoricalValue(4, bins, low, high)
