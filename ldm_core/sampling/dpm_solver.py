"""Multistep solvers in the logarithm of signal over noise, λ = −log σ, from predicted images x₀."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_core.sampling.course import Course, sigma_of
from ldm_core.sampling.plan import HISTORY, KEEP_X0, NOISE, X0, Plan, X, plan

FEW = 15  # steps below which DPM-Solver++ takes its last one of first order in any case


def dpmpp_2m(course: Course, eta: float) -> Plan:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), its last step of first order if it is to the image itself."""
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    gain = -a_next.sqrt() * torch.expm1(-_widths(a, a_next))
    x0, earlier = _second_order(course, gain)
    weights = {X: ((1 - a_next) / (1 - a)).sqrt(), X0: x0, HISTORY: earlier, KEEP_X0: torch.ones_like(gain)}
    return plan(course.visited, a, weights)


def dpmpp_2m_sde(course: Course, eta: float) -> Plan:
    """SDE-DPM-Solver++ 2M (Lu et al. 2022, appendix B.4 with the midpoint): the same order with noise in each step."""
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    h = _widths(a, a_next)
    gain = -a_next.sqrt() * torch.expm1(-2 * h)
    x0, earlier = _second_order(course, gain)
    weights = {
        X: ((1 - a_next) / (1 - a)).sqrt() * torch.exp(-h),
        X0: x0,
        HISTORY: earlier,
        NOISE: (1 - a_next).sqrt() * torch.sqrt(-torch.expm1(-2 * h)),
        KEEP_X0: torch.ones_like(gain),
    }
    return plan(course.visited, a, weights, draws_noise=True)


def _widths(alpha_bar: Tensor, following: Tensor) -> Tensor:
    """How far each step goes along λ; infinite for a last step to the image itself."""
    return -sigma_of(following).log() + sigma_of(alpha_bar).log()


def _second_order(course: Course, gain: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of this step's x₀ and of the last one's, where `gain` is that of first order."""
    a = course.alpha_bar
    log_snr, h = -sigma_of(a).log(), _widths(a, course.next_alpha_bar())
    x0, earlier = gain.clone(), torch.zeros_like(gain)
    for i in range(1, len(course) - (course.schedule.end == 1.0 or len(course) < FEW)):
        ratio = (log_snr[i] - log_snr[i - 1]) / h[i]
        x0[i], earlier[i] = gain[i] * (1 + 1 / (2 * ratio)), -gain[i] / (2 * ratio)
    return x0, earlier
