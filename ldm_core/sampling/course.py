"""The noise levels that one run goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldm_core.sampling.schedule import NoiseSchedule

LEAST_SIGNAL = 2.0**-24  # ᾱ kept from zero, where x / √ᾱ has no value; the noise level is then diffusers' highest


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """The timesteps that a run visits, and the one that each step leads to (-1: the image).

    `levels` (S,) has the run's ᾱ where it is not that of its timesteps.
    """

    schedule: NoiseSchedule
    visited: Sequence[float]
    following: Sequence[float]
    levels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.visited)

    @property
    def alpha_bar(self) -> Tensor:
        """ᾱ before each step (S,), kept from zero."""
        exact = self.schedule.along(self.visited) if self.levels is None else self.levels
        return exact.clamp(min=LEAST_SIGNAL)

    def next_alpha_bar(self, last: float | None = None) -> Tensor:
        """ᾱ after each step: that of the next one (DDIM's rule differs by rounding), `last` or the schedule's end."""
        last = self.schedule.end if last is None else last
        if self.levels is None:
            return self.schedule.along([*self.visited[1:], -1], last=last)
        return torch.cat([self.levels[1:], self.levels.new_tensor([last])])

    @property
    def start(self) -> float:
        """diffusers' Euler schedulers begin with σ · n, which has √(1 − ᾱ) of the spread of noisy data, or with all."""
        return float((1 - self.alpha_bar[0]).sqrt()) if self.schedule.starts_scaled else 1.0


def sigma_of(alpha_bar: Tensor) -> Tensor:
    """The noise level of x / √ᾱ."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_of(sigma: Tensor) -> Tensor:
    """ᾱ at a noise level of x / √ᾱ."""
    return 1 / (1 + sigma**2)


def timesteps_at(schedule: NoiseSchedule, sigma: Tensor) -> list[float]:
    """The timesteps of noise levels (S,); between two of them log σ is interpolated, as diffusers does."""
    every = sigma_of(schedule.alpha_bar.double().clamp(min=LEAST_SIGNAL)).log().numpy()
    return [float(t) for t in np.interp(sigma.log().numpy(), every, np.arange(len(every)))]
