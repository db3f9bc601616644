"""Products of compiled functions by oneDNN: the same matrices, where they are large and on the CPU."""

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from era_rl.core import products

PRODUCT = torch.ops.era_rl.product.default
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


def draw(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in sizes]


@needs_onednn
@pytest.mark.parametrize("sizes", [((64, 32), (32, 16)), ((3, 8, 4), (3, 4, 5))], ids=str)
@pytest.mark.parametrize("turned", [0, 1, 2, 3])
def test_it_is_the_product_whatever_the_strides(sizes: Any, turned: int) -> None:
    """a b to float32's rounding of the float64 product, of transposed views too."""
    a, b = draw(*sizes)
    a = a.mT.contiguous().mT if turned & 1 else a
    b = b.mT.contiguous().mT if turned & 2 else b
    exact = a.double() @ b.double()
    torch.testing.assert_close(products.product(a, b).double(), exact, rtol=1e-6, atol=1e-5)
    assert torch.equal(PRODUCT(a, b), products.product(a, b))


CASES: dict[str, tuple[Any, tuple[tuple[int, ...], ...], bool]] = {
    "mm": (lambda a, b: a @ b, ((64, 256), (256, 256)), True),
    "mm, transposed": (lambda a, b: a.T @ b, ((256, 64), (256, 256)), True),
    "addmm": (lambda a, b, c: torch.addmm(c, a, b), ((64, 256), (256, 256), (256,)), True),
    "bmm": (lambda a, b: a @ b, ((2, 64, 256), (2, 256, 256)), True),
    "baddbmm": (
        lambda a, b, c: torch.baddbmm(c, a, b),
        ((2, 64, 256), (2, 256, 256), (2, 1, 256)),
        True,
    ),
    "small": (lambda a, b: a @ b, ((5, 256), (256, 256)), False),
    "scaled": (
        lambda a, b, c: torch.addmm(c, a, b, alpha=2),
        ((64, 256), (256, 256), (256,)),
        False,
    ),
    "float64": (lambda a, b: a.double() @ b.double(), ((64, 256), (256, 256)), False),
}


@needs_onednn
def test_it_is_measured_in_float32_whatever_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN has no float64: whoever trains in it compiled ran into its error."""
    seen = []
    monkeypatch.setattr(products, "product", lambda a, b: seen.append(a.dtype) or a)
    torch.set_default_dtype(torch.float64)
    try:
        products.is_faster.__wrapped__()
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(seen) == {torch.float32}


@needs_onednn
@pytest.mark.parametrize("name", CASES)
def test_large_products_of_a_graph_are_replaced(name: str) -> None:
    function, sizes, replaced = CASES[name]
    inputs = draw(*sizes)
    module = make_fx(function, tracing_mode="fake")(*inputs)
    products.replace_products(module.graph)
    module.recompile()
    assert any(node.target == PRODUCT for node in module.graph.nodes) == replaced
    assert torch.equal(module(*inputs), function(*inputs)) or replaced
    torch.testing.assert_close(module(*inputs), function(*inputs), rtol=1e-5, atol=1e-4)


@needs_onednn
@pytest.mark.slow
def test_a_compiled_function_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of a layer, with the options of inductor that a machine with slow products has."""
    monkeypatch.setattr(products, "is_faster", lambda: True)
    products.inductor_options.cache_clear()
    options = products.inductor_options()
    products.inductor_options.cache_clear()
    called = []
    plain = products.replace_products
    monkeypatch.setattr(products, "replace_products", lambda g: called.append(plain(g)))
    layer = torch.nn.Linear(256, 256)
    (x,) = draw((64, 256))

    def gradient(weight: torch.Tensor, bias: torch.Tensor) -> Any:
        return torch.func.grad(lambda w, b: (x @ w.T + b).tanh().sum(), (0, 1))(weight, bias)

    with torch.no_grad():
        found = torch.compile(gradient, fullgraph=True, options=options)(*layer.parameters())
        expected = gradient(*layer.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert called
