"""The state of one image while it is denoised."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm_core.sampling.noise import NoiseSource
from ldm_core.sampling.plan import MEMORY, PLAN, Plan
from ldm_core.sampling.schedule import noised
from ldm_core.sampling.tiling import Tiling

CPU = torch.device("cpu")
LEVEL, HELD = PLAN, PLAN + 1  # columns of `Sample.table` behind those of a plan
SAMPLER, KNOWN = 0, 1  # what takes noise in a step


@dataclass(slots=True, weakref_slot=True, eq=False)
class Sample:
    """One image being denoised; all that is constant over its steps is already computed.

    Shapes: x (1, C, h, w) float32; history (1, 3, C, h, w), what its sampler remembers of earlier steps; context
    (R, L, D), unconditional first, R = 2 where any step is guided and 1 otherwise; concat (1, C', h, w), the channels
    that go behind x; class_labels (1,); known_image, the original (1, 3, H, W) in [-1, 1] and its mask
    (1, 1, H, W), 1 = to be painted; known_latents, those of the original (1, C, h, w) and their mask (1, 1, h, w),
    1 = held at every step.
    """

    x: Tensor
    plan: Plan
    noise: NoiseSource
    size: tuple[int, int]  # of the finished image, pixels
    context: Tensor | None = None
    guidance_scale: float = 1.0
    guided_steps: range | None = None  # the steps in which guidance is computed; None: all of them
    concat: Tensor | None = None
    class_labels: Tensor | None = None
    known_image: tuple[Tensor, Tensor] | None = None
    known_latents: tuple[Tensor, Tensor] | None = None
    tiling: Tiling | None = None  # latents larger than one call takes
    x0: Tensor | None = None  # the image as the last step predicted it
    history: Tensor = field(init=False)
    step: int = 0

    def __post_init__(self) -> None:
        self.history = self.x.new_zeros(1, MEMORY, *self.x.shape[1:])

    @property
    def rows(self) -> int:
        """U-Net rows of the next step."""
        guided = self.guidance_scale != 1.0 and (self.guided_steps is None or self.step in self.guided_steps)
        return 2 if guided else 1

    @property
    def batch_key(self) -> Hashable:
        """Rows share a U-Net call exactly when their keys are equal."""
        return tuple(self.x.shape[1:]), None if self.context is None else tuple(self.context.shape[1:]), self.tiling

    @property
    def done(self) -> bool:
        return self.step >= len(self.plan)

    @property
    def draws(self) -> bool:
        """Whether its steps take noise."""
        return self.plan.draws_noise or self.known_latents is not None

    def steps_done(self, steps: int) -> int:
        """Of the `steps` asked for, those done or left out (image to image)."""
        return max(0, steps - self.plan.steps_left(self.step))

    def draw_noise(self) -> dict[int, Tensor]:
        """The standard normal noise of this step on the CPU, by what takes it: the sampler, the known latents."""
        takers = {SAMPLER: self.plan.draws_noise, KNOWN: self._holds_known_after(self.step)}
        return {taker: self.noise.draw(tuple(self.x.shape), CPU) for taker, takes in takers.items() if takes}

    def _holds_known_after(self, step: int) -> bool:
        """Whether the known latents are put back after `step`: they are not after the last one."""
        return self.known_latents is not None and step + 1 < len(self.plan)

    @property
    def table(self) -> Tensor:
        """Its plan, and in two more columns ᾱ of the next line, and 1 where the known latents are put back after it."""
        level, held = torch.zeros(len(self.plan)), torch.zeros(len(self.plan))
        level[:-1] = self.plan.alpha_bar[1:]
        held[:-1] = float(self.known_latents is not None)
        return torch.cat([self.plan.table, level[:, None], held[:, None]], dim=1)

    def hold_known(self, x: Tensor, step: int) -> Tensor:
        """Latents `x` (1, C, h, w) with the known region put over them, at the noise level that `step` begins with."""
        if self.known_latents is None or step >= len(self.plan):
            return x
        latents, mask = self.known_latents
        level = self.plan.alpha_bar[step : step + 1].to(latents.device)
        known = noised(latents, self.noise.draw(tuple(latents.shape), latents.device), level)
        return mask * known + (1 - mask) * x
