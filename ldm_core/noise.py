"""Where a picture's randomness comes from: a CPU generator of its own, so that neither mates nor device change it."""

from __future__ import annotations

import torch
from torch import Tensor


class NoiseSource:
    """Standard normal noise in the order in which it is asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The next noise, float32."""
        return torch.randn(shape, generator=self.generator).to(device)
