"""3 × 3 convolutions of small images that winograd.py does not take, of few channels or with a stride.

What each pixel of the result sees is laid side by side, and a product of matrices does the rest. oneDNN spends more
time around such a convolution than in it: a step of `scenes` in bfloat16 1.05 to 1.1 x, in float32 up to 1.08 x. Larger
images stay with it: their patches take nine times their memory.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from ldm_core.acceleration import kernels
from ldm_core.acceleration.native import Address, Count, library, run

SMALL = 2**20  # numbers in a row's patches


class _Patches(ctypes.Structure):
    _fields_ = (
        ("x", Address),
        ("y", Address),
        *((name, Count) for name in ("rows", "height", "width", "channels", "out_height", "out_width", "depth")),
        *((name, Count) for name in ("stride", "padding", "size")),
    )


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether convolve() has an advantage with such a weight (out, in, 3, 3) over (B, in, H, W), whatever B is."""
    if weight.shape[1:] != (x.shape[1], 3, 3) or 9 * math.prod(x.shape[1:]) > SMALL or library() is None:
        return False
    return weight.dtype == torch.float32


def matrix(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) → (9 · in, out), as convolve() takes it."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()


def convolve(x: Tensor, matrix: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Of (B, in, H, W) with a weight as matrix() makes it → (B, out, H', W'), channels-last."""
    x = x.contiguous(memory_format=torch.channels_last)
    rows, channels, height, width = x.shape
    down, across = ((side + 2 * padding - 3) // stride + 1 for side in (height, width))
    depth = len(matrix)
    assert depth == 9 * channels
    seen = x.new_empty(rows, down, across, depth)
    size = rows, height, width, channels, down, across, depth
    run("patches", _Patches, x, seen, *size, stride, padding, x.element_size())
    return kernels.product(seen, matrix.t(), bias).permute(0, 3, 1, 2)
