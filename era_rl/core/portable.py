"""Functions that torch has and ONNX has not, or only without their tails, by operations that it has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def normal_quantile(p: Tensor) -> Tensor:
    """Return Phi^-1(p), ``torch.special.ndtri``, for p in (0, 1), within 1e-7 of it relatively.

    Source: Wichura, Algorithm AS 241 (PPND7), Applied Statistics 37, 1988.
    """
    q = p - 0.5
    x = (0.180625 - q * q).clamp_min(0.0)
    centre = ((59.109374720 * x + 159.29113202) * x + 50.434271938) * x + 3.3871327179
    centre = q * centre / (((67.187563600 * x + 78.757757664) * x + 17.895169469) * x + 1.0)
    r = (-torch.minimum(p, 1.0 - p).log()).sqrt()
    x = r - 1.6
    near = ((0.17023821103 * x + 1.3067284816) * x + 2.7568153900) * x + 1.4234372777
    near = near / ((0.12021132975 * x + 0.73700164250) * x + 1.0)
    x = r - 5.0
    far = ((0.017337203997 * x + 0.42868294337) * x + 3.0812263860) * x + 6.6579051150
    far = far / ((0.012258202635 * x + 0.24197894225) * x + 1.0)
    tail = torch.where(r <= 5.0, near, far)
    return torch.where(q.abs() <= 0.425, centre, torch.where(q < 0.0, -tail, tail))


def complementary_error_function(x: Tensor) -> Tensor:
    """Return erfc(x), ``torch.erfc``, within 1.2e-7 of it relatively: 1 - erf(x) has no tail.

    Source: Press et al., Numerical Recipes, 1992, section 6.2 (erfcc).
    """
    t = 1.0 / (1.0 + 0.5 * x.abs())
    y = ((0.17087277 * t - 0.82215223) * t + 1.48851587) * t - 1.13520398
    y = (((y * t + 0.27886807) * t - 0.18628806) * t + 0.09678418) * t + 0.37409196
    upper = t * torch.exp((y * t + 1.00002368) * t - 1.26551223 - x * x)
    return torch.where(x < 0.0, 2.0 - upper, upper)


DECOMPOSITIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    torch.ops.aten.special_ndtri.default: normal_quantile,
    torch.ops.aten.erfc.default: complementary_error_function,
}
"""For ``torch.export.ExportedProgram.run_decompositions``."""
