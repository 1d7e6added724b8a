"""Where an image's randomness comes from: a CPU generator of its own, so that neither mates nor device change it."""

from __future__ import annotations

import torch
from torch import Tensor


class NoiseSource:
    """Standard normal noise in the order in which it is asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def state(self) -> Tensor:
        """What has been drawn so far, for `restore`."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Forgets what was drawn since `state`."""
        self.generator.set_state(state)

    def draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The next noise, float32."""
        return torch.randn(shape, generator=self.generator).to(device)
