"""How a run's noise levels are spaced: as the timesteps of the model are, or by a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ldm_core.sampling.course import LEAST_SIGNAL, Course, alpha_bar_of, sigma_of, timesteps_at
from ldm_core.sampling.schedule import NoiseSchedule

RHO = 7.0
# Align Your Steps (Sabour et al. 2024), as published for Stable Diffusion 1
AYS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
WHOLE = {"dpmpp_2m", "dpmpp_2m_sde", "unipc", "deis"}  # diffusers has whole timesteps there, and the whole range


def karras(highest: float, lowest: float, steps: int) -> Tensor:
    """Karras et al. 2022, equation 5."""
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = highest ** (1 / RHO), lowest ** (1 / RHO)
    return torch.as_tensor((high + share * (low - high)) ** RHO)


def exponential(highest: float, lowest: float, steps: int) -> Tensor:
    """Evenly in log σ."""
    return torch.from_numpy(np.exp(np.linspace(np.log(highest), np.log(lowest), steps)))


def ays(highest: float, lowest: float, steps: int) -> Tensor:
    """The published levels with log σ interpolated between them; the last one is replaced by the end of the run."""
    at = np.linspace(0, len(AYS) - 1, steps + 1)[:-1]
    return torch.from_numpy(np.exp(np.interp(at, np.arange(len(AYS)), np.log(AYS))))


SPACINGS: Mapping[str, Callable[[float, float, int], Tensor]] = {
    "karras": karras, "exponential": exponential, "ays": ays,
}  # fmt: skip


def spaced(schedule: NoiseSchedule, sampler: str, steps: int, first: int, spacing: str | None) -> Course:
    """A run of `steps` steps without the `first` ones; None and "uniform" are the model's own spacing."""
    if spacing == "sgm_uniform":
        schedule = replace(schedule, timestep_spacing="trailing")
    visited, following = schedule.timesteps(steps)
    rule = SPACINGS.get(spacing or "")
    if rule is None:
        return Course(schedule, visited[first:], following[first:])
    every = schedule.alpha_bar[[-1, 0]].double() if sampler in WHOLE else schedule.along([visited[0], visited[-1]])
    highest, lowest = sigma_of(every.clamp(min=LEAST_SIGNAL)).tolist()
    sigma = rule(highest, lowest, steps)[first:]
    timesteps = timesteps_at(schedule, sigma)
    if sampler in WHOLE:  # which cuts off fractions with some spacings, as diffusers does
        timesteps = [float(round(t) if spacing == "karras" else int(t)) for t in timesteps]
    return Course(schedule, timesteps, [*timesteps[1:], -1], alpha_bar_of(sigma))
