"""Latents too large for one call, in overlapping windows whose results are blended (paper section 4.3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Window = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Windows of `size` every `stride` positions, (H, W) of latents.

    A result counts most in the middle of its window, least at its border: `low` to `high` by the distance to it, as a
    share of the window.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    low: float = 0.01
    high: float = 0.5

    def windows(self, height: int, width: int) -> Iterator[Window]:
        """Windows that cover (height, width); the last ones end at its border."""
        for top in _starts(height, self.size[0], self.stride[0]):
            for left in _starts(width, self.size[1], self.stride[1]):
                yield slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def weights(self, height: int, width: int, device: torch.device) -> Tensor:
        """How much each position of a window of (height, width) counts."""
        rows, columns = _border_distance(height, device), _border_distance(width, device)
        return torch.minimum(rows[:, None], columns[None]).clamp(self.low, self.high)


def covering(height: int, width: int, limit: int) -> Tiling | None:
    """Windows of at most `limit` positions a side that overlap by a quarter; None where one window is enough."""
    if not limit or max(height, width) <= limit:
        return None
    size = min(height, limit), min(width, limit)
    return Tiling(size=size, stride=(max(1, size[0] * 3 // 4), max(1, size[1] * 3 // 4)))


def tiled(
    x: Tensor, of_window: Callable[[Tensor, tuple[slice, slice]], Tensor], tiling: Tiling, scale: int = 1
) -> Tensor:
    """`of_window` over all windows of `x` (B, C, H, W), blended: (B, C', scale·H, scale·W).

    It is given the window's part of `x` and where that lies, and returns `scale` times as many rows and columns.
    """
    height, width = x.shape[2:]
    total = weight_sum = torch.zeros(())
    first = True
    for place in tiling.windows(height, width):
        out = of_window(x[:, :, place[0], place[1]], place)
        if first:
            total = out.new_zeros(len(x), out.shape[1], height * scale, width * scale)
            weight_sum = out.new_zeros(height * scale, width * scale)
            weights, first = tiling.weights(out.shape[2], out.shape[3], out.device), False
        rows, columns = (slice(part.start * scale, part.stop * scale) for part in place)
        total[:, :, rows, columns] += out * weights
        weight_sum[rows, columns] += weights
    return total / weight_sum


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def _border_distance(length: int, device: torch.device) -> Tensor:
    """Distance to the nearer end, as a share of the length."""
    place = torch.arange(length, device=device, dtype=torch.float32) / max(length - 1, 1)
    return torch.minimum(place, 1 - place)
