"""Matrix products of compiled functions by oneDNN, where it is faster than what torch calls for them.

torch multiplies float32 matrices on x86 by MKL, which on processors of another maker than its own
leaves out their widest instructions; oneDNN, which is in torch too, does not.
"""

import math
import statistics
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor

LEAST_OPERATIONS = 2**20
"""Multiplications from which on oneDNN's start is worth it: 64 x 256 x 256 are, 5 x 256 x 256 not."""
LEAST_GAIN = 1.25
"""How many times as fast it must be on this machine."""

_LIBRARY = torch.library.Library("era_rl", "DEF")
_LIBRARY.define("product(Tensor a, Tensor b) -> Tensor")


@torch.library.impl(_LIBRARY, "product", "CPU")
def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the products a b, (..., n, k), of float32 matrices, (..., n, m) and (..., m, k)."""
    if a.dim() > 2:
        return torch.stack([product(*pair) for pair in zip(a, b, strict=True)])
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@torch.library.register_fake("era_rl::product", lib=_LIBRARY)
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


@cache
def is_faster() -> bool:
    """Return whether products are faster than torch.mm's, measured once in a process."""
    if not (
        torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    a = torch.ones(256, 256, dtype=torch.float32, device="cpu")  # whatever the defaults
    gains = []
    for _ in range(9):
        seconds = []
        for function in (torch.mm, product):
            start = time.perf_counter()
            for _ in range(3):
                function(a, a)
            seconds.append(time.perf_counter() - start)
        gains.append(seconds[0] / seconds[1])
    return statistics.median(gains) > LEAST_GAIN


@cache
def inductor_options() -> dict[str, Any]:
    """Return options of torch.compile with which large products on the CPU are oneDNN's."""
    if not is_faster():
        return {}
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files  # loads much

    class Products(CustomGraphPass):
        """:func:`replace_products`, by which inductor can tell graphs that it keeps."""

        def __call__(self, graph: torch.fx.Graph) -> None:
            replace_products(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return {"post_grad_custom_post_pass": Products()}


_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default, _ATEN.baddbmm.default}


def replace_products(graph: torch.fx.Graph) -> None:
    """Put :func:`product` in the place of aten's products that are large enough, in a graph."""
    for node in list(graph.nodes):
        if node.target in _PRODUCTS and _is_large(node):
            _replace(graph, node)


def _is_large(node: Any) -> bool:
    """Return whether a node is a product of known size, on the CPU, of enough operations."""
    left, right = (factor.meta["val"] for factor in node.args[-2:])
    sizes = (*left.shape[-2:], right.shape[-1])
    return (
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and not node.kwargs  # addmm's factors
        and all(isinstance(size, int) for size in sizes)
        and math.prod(sizes) >= LEAST_OPERATIONS
    )


def _replace(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    with graph.inserting_before(node):
        found = graph.call_function(torch.ops.era_rl.product.default, node.args[-2:])
        found.meta.update(node.meta)
        if len(node.args) == 3:  # the bias joins what is computed of the product
            found = graph.call_function(torch.ops.aten.add.Tensor, (found, node.args[0]))
            found.meta.update(node.meta)
    node.replace_all_uses_with(found)
    graph.erase_node(node)
