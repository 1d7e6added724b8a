"""3 × 3 convolutions on CPUs by Winograd's F(2 × 2, 3 × 3): 16 multiplications for 4 pixels instead of 36.

Lavin and Gray 2015 (arXiv:1509.09308), section 4.1. Tiles of 4 × 4 pixels and the weights are brought into a space
where convolving is multiplying, place by place; there stand 16 products of matrices, which MKL computes in float32, for
bfloat16 too. Being shorter sums, the results are nearer to exact ones than those of a direct
convolution. The transforms are in winograd.c. Measured on two cores against oneDNN's direct convolutions: 1.3 to 2.1 x
a layer; a step of `scenes` 1.17 x at two rows, of Stable Diffusion 1.x at 32² latents 1.2 x (benchmarks.step).
"""

from __future__ import annotations

import ctypes
from itertools import pairwise

import torch
from torch import Tensor

from ldm_core.acceleration.native import LANES, Address, Count, has_fast_bfloat16, library, run
from ldm_core.huge_pages import huge_empty

PIECE = 16 * 2**20  # bytes of tiles that go through at once, so that they stay in the caches


class _Weight(ctypes.Structure):
    _fields_ = (
        *((name, Address) for name in ("weight", "transformed")),
        *((name, Count) for name in ("outs", "ins", "bfloat16")),
    )


class _Tiles(ctypes.Structure):
    _fields_ = (
        *((name, Address) for name in ("x", "tiles", "bias")),
        *((name, Count) for name in ("first", "last", "height", "width", "channels", "bfloat16")),
    )


def takes(weight: Tensor) -> bool:
    """Whether convolve() has an advantage with such a weight here: (out, in, 3, 3), float32 or bfloat16."""
    out, ins, *kernel = weight.shape
    if kernel != [3, 3] or out % LANES or ins % LANES or library() is None:
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and not has_fast_bfloat16())


def transformed(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) → (16, in, out) float32: what convolve() takes. Equation 8 of the paper, U = G g Gᵀ."""
    out, ins = weight.shape[:2]
    spread = huge_empty(16, ins, out)
    run("transform", _Weight, weight.contiguous(), spread, out, ins, weight.dtype == torch.bfloat16)
    return spread


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Of (B, in, H, W) with a transformed weight, stride 1 and padding 1: (B, out, H, W), channels-last.

    Raises ValueError for another number of channels, or another dtype than the bias has.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    rows, ins, height, width = x.shape
    out = weight.shape[2]
    if ins != weight.shape[1]:  # the kernels would read beyond the image
        raise ValueError(f"expected {weight.shape[1]} channels, got {ins}")
    if x.dtype != bias.dtype:
        raise ValueError(f"expected {bias.dtype}, got {x.dtype}")
    y = torch.empty(rows, out, height, width, dtype=x.dtype, memory_format=torch.channels_last)
    down, across = (height + 1) // 2, (width + 1) // 2
    bfloat16 = x.dtype == torch.bfloat16
    for first, last in _pieces(rows, down, across * 16 * 4 * (ins + out)):
        before = first, last, height, width, ins, bfloat16
        after = first, last, height, width, out, bfloat16
        tiles = x.new_empty(16, (last - first) * across, ins, dtype=torch.float32)
        run("to_tiles", _Tiles, x, tiles, None, *before)
        products = torch.bmm(tiles, weight)
        run("from_tiles", _Tiles, y, products, bias, *after)
    return y


def _pieces(rows: int, down: int, line: int) -> list[tuple[int, int]]:
    """Lines of tiles from … to, over all rows; `line` is the bytes of one.

    Rows go together in equal numbers, or each is cut in the same way, so that none is computed otherwise than another.
    """
    together = max((n for n in range(1, rows + 1) if rows % n == 0 and n * down * line <= PIECE), default=0)
    if together:
        return [(row * down, (row + together) * down) for row in range(0, rows, together)]
    cuts = -(-down // max(1, PIECE // line))
    within = [i * down // cuts for i in range(cuts + 1)]
    return [(row * down + a, row * down + b) for row in range(rows) for a, b in pairwise(within)]
