"""How close two images are (PSNR, SSIM), how visible a seam is, and how sure a share of right answers is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)


def psnr(a: Pixels, b: Pixels, where: Mask | None = None) -> float:
    """Decibels over all pixels or those of `where`; infinite for equal images."""
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    mse = float(error.mean() if where is None else error[where].mean())
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def ssim(a: Pixels, b: Pixels) -> float:
    """Mean structural similarity of the three channels (Wang et al. 2004): Gaussian window of 11, sigma 1.5."""
    x, y = (torch.from_numpy(np.array(p)).permute(2, 0, 1)[:, None].double() for p in (a, b))
    ramp = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(ramp**2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values, window)

    mx, my = local(x), local(y)
    vx, vy, vxy = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def border_contrast(picture: Pixels, mask: Mask) -> float:
    """Mean absolute difference, in grey levels, of the neighbours of which one lies in the mask and one outside."""
    levels = picture.astype(np.float64)
    across = [(mask[1:] != mask[:-1], levels[1:] - levels[:-1]), (mask[:, 1:] != mask[:, :-1], np.diff(levels, axis=1))]
    steps = [np.abs(difference[crossing]) for crossing, difference in across]
    return float(np.concatenate(steps).mean())


def share(right: int, of: int) -> dict[str, Any]:
    """A proportion with its 95 % interval (Wilson 1927). Without a single case all three are None."""
    if not of:
        return {"right": 0, "of": 0, "share": None, "low": None, "high": None}
    z, p = 1.96, right / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return {"right": right, "of": of, "share": p, "low": max(0.0, low), "high": min(1.0, high)}
