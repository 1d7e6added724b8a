"""Random holes for inpainting."""

from __future__ import annotations

import torch
from torch import Tensor


def random_masks(count: int, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(B, 1, size, size), 1 where the image is to be made anew: rectangles, ellipses, half planes, everything."""

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(count, 1, 1, generator=generator, device=device)
        return low + (high - low) * draw

    axis = (torch.arange(size, device=device) + 0.5) / size
    x, y = axis[None, None, :], axis[None, :, None]
    cx, cy, rx, ry = uniform(0.1, 0.9), uniform(0.1, 0.9), uniform(0.08, 0.4), uniform(0.08, 0.4)
    dx, dy = (x - cx) / rx, (y - cy) / ry
    angle = uniform(0, 2 * torch.pi)
    shapes = torch.stack(
        [
            (dx.abs() < 1) & (dy.abs() < 1),
            dx**2 + dy**2 < 1,
            (x - cx) * angle.cos() + (y - cy) * angle.sin() > 0,
            torch.ones(count, size, size, dtype=torch.bool, device=device),
        ],
        dim=1,
    )
    kind = torch.multinomial(
        torch.tensor([0.45, 0.3, 0.15, 0.1], device=device), count, replacement=True, generator=generator
    )
    return shapes[torch.arange(count, device=device), kind][:, None].float()
