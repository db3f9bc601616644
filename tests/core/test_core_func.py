"""Derivatives and transforms: gradcheck, torch.func, compile and strict export of every function.

Second derivatives are documented as unsupported: nothing here takes them.
"""

import shutil
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import grad, jacfwd, jacrev, vmap

from era_rl.core import (
    CategoricalHead,
    TruncatedGaussianHead,
    TruncatedNormal,
    categorical_entropy,
    delta_loss,
    gaussian_era,
    normal_entropy,
    softmax_era,
    tanh_normal_entropy,
    truncated_normal_entropy,
    truncated_normal_era,
    truncated_normal_log_std,
    truncated_normal_sample,
)

# torch registers its own forward-mode rules through torch.jit.script, which it deprecates
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")

BATCH, DIM = 4, 3


def _rows(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(BATCH, DIM, dtype=torch.float64)


def _loc() -> Tensor:
    return torch.tanh(_rows())


def _slack_era(loc: Tensor, raw: Tensor, slack: Tensor) -> Tensor:
    return truncated_normal_era(loc, raw, target_entropy=-1.0, slack_logit=slack)


def _policy(loc: Tensor, log_std: Tensor) -> TruncatedNormal:
    return TruncatedNormal(loc, log_std.exp(), -2.0, 1.5)


def _log_prob(loc: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    return _policy(loc, log_std).log_prob(x)


# name: (function, its differentiable arguments, one row of a batch each)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[], tuple[Tensor, ...]]]] = {
    "normal_entropy": (normal_entropy, lambda: (_rows(),)),
    "categorical_entropy": (categorical_entropy, lambda: (_rows(3.0),)),
    "tanh_normal_entropy": (tanh_normal_entropy, lambda: (_rows(), _rows())),
    "truncated_normal_entropy": (truncated_normal_entropy, lambda: (_loc(), _rows())),
    "truncated_normal_log_std": (truncated_normal_log_std, lambda: (_loc(), 0.6 - _rows().exp())),
    "truncated_normal_sample": (
        lambda loc, log_std: truncated_normal_sample(loc, log_std, torch.full_like(loc, 0.37)),
        lambda: (_loc(), _rows()),
    ),
    "gaussian_era": (partial(gaussian_era, target_entropy=0.5), lambda: (_rows(),)),
    "truncated_normal_era": (
        partial(truncated_normal_era, target_entropy=-1.0),
        lambda: (_loc(), _rows()),
    ),
    "truncated_normal_era_slack": (_slack_era, lambda: (_loc(), _rows(), _rows()[:, :1])),
    "softmax_era_lambert": (partial(softmax_era, target_entropy=0.4), lambda: (_rows(2.0),)),
    "softmax_era_paper": (
        partial(softmax_era, target_entropy=0.4, method="paper"),
        lambda: (_rows(2.0),),
    ),
    "softmax_era_temperature": (
        partial(softmax_era, target_entropy=0.6, method="temperature"),
        lambda: (_rows(3.0),),
    ),
    "delta_loss": (
        lambda delta: delta_loss(delta, torch.linspace(0.0, 1.0, DIM), 0.3),
        lambda: (_rows(),),
    ),
    "log_prob": (_log_prob, lambda: (_loc(), _rows(), _rows(0.3))),
    "entropy": (lambda *params: _policy(*params).entropy(), lambda: (_loc(), _rows())),
    "mean": (lambda *params: _policy(*params).mean, lambda: (_loc(), _rows())),
    "variance": (lambda *params: _policy(*params).variance, lambda: (_loc(), _rows())),
}


@pytest.fixture(params=FUNCTIONS)
def case(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    function, arguments = FUNCTIONS[request.param]
    return function, arguments()


def test_gradcheck_in_reverse_forward_and_batched(case) -> None:
    function, arguments = case
    leaves = tuple(argument.requires_grad_() for argument in arguments)
    assert gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True)


def test_vmap_and_loop_equal_the_batch(case) -> None:
    function, arguments = case
    looped = torch.stack([function(*row) for row in zip(*arguments, strict=True)])
    torch.testing.assert_close(vmap(function)(*arguments), looped)
    if looped.dim() > 1:  # delta_loss takes one mean over the batch
        torch.testing.assert_close(function(*arguments), looped)


def test_vmap_of_grad_equals_autograd_row_by_row(case) -> None:
    function, arguments = case
    every = tuple(range(len(arguments)))
    batched = vmap(grad(lambda *row: function(*row).sum(), argnums=every))(*arguments)
    for i in range(BATCH):
        row = tuple(argument[i].clone().requires_grad_() for argument in arguments)
        expected = torch.autograd.grad(function(*row).sum(), row)
        torch.testing.assert_close(tuple(g[i] for g in batched), expected)


def test_forward_mode_equals_reverse_mode(case) -> None:
    function, arguments = case
    row = tuple(argument[0] for argument in arguments)
    every = tuple(range(len(row)))
    torch.testing.assert_close(jacfwd(function, every)(*row), jacrev(function, every)(*row))


def test_grad_inside_no_grad_is_still_the_gradient() -> None:
    loc, entropy = torch.tensor([0.3, -0.9]), torch.tensor([0.2, -1.0])
    slope = grad(lambda h: truncated_normal_log_std(loc, h).sum())
    with torch.no_grad():
        inside = slope(entropy)
    assert (inside > 0).all()
    torch.testing.assert_close(inside, slope(entropy))


def test_functions_never_read_values(case) -> None:
    function, arguments = case
    on_meta = function(*(argument.to("meta") for argument in arguments))
    assert on_meta.device.type == "meta"
    assert on_meta.shape == function(*arguments).shape


def _surprise(raw: Tensor, u: Tensor) -> Tensor:
    loc, log_std = TruncatedGaussianHead(DIM, slack=0.2).params(raw)
    action = truncated_normal_sample(loc, log_std, u)
    return TruncatedNormal(loc, log_std.exp()).log_prob(action)


def _lambert(logits: Tensor) -> Tensor:
    return categorical_entropy(softmax_era(logits, target_entropy=0.4))


def _temperature(logits: Tensor) -> Tensor:
    bounded = softmax_era(4.0 * logits, target_entropy=0.8, method="temperature")
    return bounded.log_softmax(-1)[..., 0]


@pytest.mark.parametrize(
    "function",
    [
        _surprise,
        _lambert,
        # its 32 unrolled steps take long to trace, here and in the export below
        pytest.param(_temperature, marks=pytest.mark.slow),
    ],
)
def test_compile_without_graph_breaks_alone_and_over_vmap_of_grad(function) -> None:
    raw = torch.randn(BATCH, 2 * DIM + 1)
    arguments = (raw, torch.rand(BATCH, DIM)) if function is _surprise else (raw,)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grads = []
    for run in (function, compiled):
        leaf = raw.clone().requires_grad_()
        out = run(leaf, *arguments[1:])
        grads.append((out.detach(), *torch.autograd.grad(out.sum(), leaf)))
    torch.testing.assert_close(grads[1], grads[0])
    per_row = vmap(grad(lambda *row: function(*row).sum()))
    compiled_rows = torch.compile(per_row, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled_rows(*arguments), per_row(*arguments))


def _has_cpp_compiler() -> bool:
    return any(map(shutil.which, ("g++", "c++", "clang++")))


@pytest.mark.slow
@pytest.mark.skipif(not _has_cpp_compiler(), reason="inductor needs a C++ compiler on PATH")
def test_inductor_gives_the_eager_result() -> None:
    loc, log_std = torch.tanh(torch.randn(64)), torch.randn(64)
    compiled = torch.compile(truncated_normal_entropy, fullgraph=True)
    torch.testing.assert_close(compiled(loc, log_std), truncated_normal_entropy(loc, log_std))


@pytest.mark.parametrize(
    "head",
    [
        TruncatedGaussianHead(DIM, slack=0.2),
        TruncatedGaussianHead(DIM, slack=0.2, min_entropy_per_dim=-1.0),
        TruncatedGaussianHead(DIM, floor="gaussian", target_entropy=0.5),
        CategoricalHead(2 * DIM, method="lambert"),
        pytest.param(CategoricalHead(2 * DIM), marks=pytest.mark.slow),
    ],
    ids=["exact", "each", "gaussian", "lambert", "temperature"],
)
def test_strict_export_with_a_free_batch(head) -> None:
    width = getattr(head, "raw_dim", 2 * DIM)
    example = (torch.randn(BATCH, width),)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(head, example, strict=True, dynamic_shapes=({0: batch},))
    other = torch.randn(9, width)
    torch.testing.assert_close(program.module()(other), head(other))
