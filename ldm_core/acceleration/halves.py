"""Products of matrices by float16 arithmetic (halves.c), for networks in bfloat16 on CPUs where that is fastest.

Processors with AVX512-FP16 but without AMX (a Sapphire Rapids whose virtual machine hides it) multiply float16 at twice
the rate of float32 and at four times that of bfloat16. A product's error, 1.2e-3 of its size, is less than what
rounding it to bfloat16 costs; rows and columns are scaled, so that nothing overflows. Measured there on two cores, a
step of Stable Diffusion 1.x in bfloat16 at 32² latents takes 0.6 of the time that it takes with oneDNN's products, and
is as far from float32. A norm or a gate before a product and a sum behind it are part of it: few rows spend less time
in multiplying than in calls (1.1 x a step of `scenes` at two rows).
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration.native import DTYPES, LANES, Address, Count, has_fast_bfloat16, library, run

COLUMNS = 64  # of a panel, as in halves.c


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, Address) for name in ("x", "panels", "scales", "bias", "weight", "shift", "add", "y")),
        *((name, Count) for name in ("products", "rows", "depth", "columns", "gated", "bfloat16")),
        ("eps", ctypes.c_double),
    )


@dataclass(frozen=True, slots=True)
class Halves:
    """Matrices (P, K, N) in float16: panels (P, N / 64 rounded up, K, 64), each column divided by its scale (P, N)."""

    panels: Tensor
    scales: Tensor
    shape: tuple[int, int, int]  # of the matrices


@cache
def present() -> bool:
    """Whether this processor is such a one, and they were compiled."""
    apt = torch.cpu.get_capabilities().get("avx512_fp16") and not has_fast_bfloat16()
    kernels = library()
    return bool(apt and kernels is not None and kernels.half_product(None))


def takes(weight: Tensor, depth: int) -> bool:
    """Whether linear() is the way to multiply with it, as a matrix of `depth` rows."""
    return weight.dtype == torch.bfloat16 and depth % LANES == 0 and present()


def packed(matrices: Tensor) -> Halves:
    """(P, K, N) as linear() takes one, and winograd.convolve() sixteen.

    Raises ValueError for a K that is no multiple of 16.
    """
    if matrices.shape[1] % LANES:
        raise ValueError(f"the depth must be a multiple of {LANES}, got {matrices.shape[1]}")
    matrices = matrices.float()
    scales = torch.frexp(matrices.abs().amax(1)).exponent.float().exp2()
    halves = F.pad((matrices / scales[:, None]).half(), (0, -matrices.shape[2] % COLUMNS))
    panels = halves.unflatten(2, (-1, COLUMNS)).transpose(1, 2).contiguous()
    return Halves(panels, scales.contiguous(), (*matrices.shape,))


def linear(
    x: Tensor,
    matrix: Halves,
    bias: Tensor | None,
    *,
    norm: nn.LayerNorm | None = None,
    gated: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """(…, K) times a single matrix (K, N), and what packed.Linear does with it → (…, N); float32 or bfloat16.

    Raises ValueError for another K.
    """
    _, depth, columns = matrix.shape
    if x.shape[-1] != (2 * depth if gated else depth):  # the kernel would read beyond it
        raise ValueError(f"expected a depth of {depth}, got {x.shape[-1]}")
    weight, shift = (None, None) if norm is None else (norm.weight, norm.bias)
    assert x.dtype in DTYPES
    assert all(part is None or part.dtype == x.dtype for part in (bias, weight, shift, add))
    assert norm is None or (norm.normalized_shape == (depth,) and weight is not None and shift is not None)
    assert len(matrix.scales) == 1
    x = x.contiguous()
    shape = [*x.shape[:-1], columns]
    y = x.new_empty(shape)
    if add is not None:
        assert add.shape == y.shape
        add = add.contiguous()
    run(
        "half_product", _Product, x, matrix.panels, matrix.scales, bias, weight, shift, add, y,
        1, math.prod(shape[:-1]), depth, columns, gated, x.dtype == torch.bfloat16, 0.0 if norm is None else norm.eps,
    )  # fmt: skip
    return y
