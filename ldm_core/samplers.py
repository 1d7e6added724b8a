"""Samplers as pure row-wise steps: every coefficient is a vector with one entry per row, so that rows of different
requests share one U-Net call. The step is exported, never the loop.

A request's `Plan` is the table of its coefficients; a step gathers one line of it for each row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_core.schedule import NoiseSchedule


@dataclass(frozen=True, slots=True)
class Plan:
    """One request's way through the schedule, S steps long, first step first; all of shape (S,), on the CPU."""

    t: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor
    sigma: Tensor
    draws_noise: bool

    def __len__(self) -> int:
        return len(self.t)


def ddim_plan(schedule: NoiseSchedule, steps: int, eta: float) -> Plan:
    """The coefficients of DDIM (Song et al. 2021, equations 12 and 16): `eta` 0 is deterministic, 1 is like DDPM."""
    visited, following = schedule.timesteps(steps)
    alpha_bar = schedule.alpha_bar.double()
    final = torch.ones((), dtype=torch.float64) if schedule.set_alpha_to_one else alpha_bar[0]
    a = alpha_bar[torch.tensor(visited)]
    a_prev = torch.stack([alpha_bar[t] if t >= 0 else final for t in following])
    sigma = eta * torch.sqrt((1 - a_prev) / (1 - a)) * torch.sqrt((1 - a / a_prev).clamp(min=0))
    return Plan(torch.tensor(visited), a.float(), a_prev.float(), sigma.float(), draws_noise=eta > 0)


def split_prediction(
    x: Tensor, out: Tensor, alpha_bar: Tensor, prediction_type: str, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """The predicted picture x₀ and noise ε from the network's output, whichever it was trained to give."""
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        x0, eps = (x - b * out) / a, out
    elif prediction_type == "v_prediction":
        x0, eps = a * x - b * out, a * out + b * x
    else:
        x0, eps = out, (x - a * out) / b
    return (x0 if clip is None else x0.clamp(-clip, clip)), eps


def ddim_step(
    x: Tensor,
    out: Tensor,
    alpha_bar: Tensor,
    alpha_bar_prev: Tensor,
    sigma: Tensor,
    noise: Tensor,
    prediction_type: str = "epsilon",
    clip: float | None = None,
) -> Tensor:
    """One DDIM step (equation 12): `x`, `out`, `noise` (B, C, H, W), the coefficients (B,) → x at the next timestep."""
    alpha_bar, alpha_bar_prev, sigma = (c[:, None, None, None] for c in (alpha_bar, alpha_bar_prev, sigma))
    x0, eps = split_prediction(x, out, alpha_bar, prediction_type, clip)
    direction = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt() * eps
    return alpha_bar_prev.sqrt() * x0 + direction + sigma * noise


def guide(uncond: Tensor, cond: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): both (B, C, H, W), `scale` (B,)."""
    return uncond + scale[:, None, None, None] * (cond - uncond)
