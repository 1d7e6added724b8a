"""Solvers in the logarithm of signal over noise, λ = −log σ."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ldm_core.sampling.course import Course, alpha_bar_of, sigma_of, timesteps_at
from ldm_core.sampling.euler import evaluated_twice
from ldm_core.sampling.plan import (
    COLUMNS,
    EPS,
    HISTORY,
    KEEP_EPS,
    KEEP_NOISE,
    KEEP_X,
    KEEP_X0,
    NOISE,
    X0,
    Plan,
    X,
    plan,
)

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


def deis(course: Course, eta: float) -> Plan:
    """DEIS of second order (Zhang & Chen 2023, equation 15, with ρ = σ): ε on a line in log ρ through two levels.

    It ends at the schedule's lowest noise level, never at the image itself, as diffusers' does.
    """
    lowest = float(course.schedule.alpha_bar[0])
    a, a_next = course.alpha_bar, course.next_alpha_bar(last=lowest)
    rho, end = sigma_of(a), sigma_of(a_next)
    root = a_next.sqrt()
    eps, earlier = root * (end - rho), torch.zeros_like(root)
    for i in range(1, len(course) - (len(course) < FEW)):
        width = rho[i].log() - rho[i - 1].log()
        eps[i] = root[i] * (_integral(end[i], rho[i - 1]) - _integral(rho[i], rho[i - 1])) / width
        earlier[i] = -root[i] * (_integral(end[i], rho[i]) - _integral(rho[i], rho[i])) / width
    weights = {X: (a_next / a).sqrt(), EPS: eps, HISTORY: earlier, KEEP_EPS: torch.ones_like(eps)}
    return plan(course.visited, a, weights)


def _integral(rho: Tensor, node: Tensor) -> Tensor:
    """Of log ρ − log node."""
    return rho * (rho.log() - node.log() - 1)


def dpmpp_sde(course: Course, eta: float) -> Plan:
    """DPM-Solver++ with noise in both evaluations of a step, the second at the mean of λ (k-diffusion's dpmpp_sde).

    Both noises are of one Brownian path, over half and over all of the step. Here the second is the share of the first
    that this asks for and fresh noise: the same law as a Brownian tree, from the image's own generator.
    """
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    sigma, end = sigma_of(a), sigma_of(a_next)
    middle = (sigma * end).sqrt()[:-1]
    halfway = torch.cat([alpha_bar_of(middle), a_next[-1:]])
    first, second = (torch.zeros(len(course), COLUMNS, dtype=torch.float64) for _ in range(2))
    root, (stay, up) = halfway.sqrt(), _ancestral(sigma, sigma_of(halfway))
    first[:, X], first[:, X0], first[:, NOISE] = (halfway / a).sqrt() * stay, root * (1 - stay), root * up
    root, (stay, up) = a_next.sqrt(), _ancestral(sigma, end)
    shared = (sigma - sigma_of(halfway)) / (sigma - end)
    first[:-1, KEEP_X] = ((a_next / a).sqrt() * stay)[:-1]
    first[:-1, KEEP_NOISE] = (root * up * shared.sqrt())[:-1]
    second[:, HISTORY], second[:, X0], second[:, NOISE] = 1.0, root * (1 - stay), root * up * (1 - shared).sqrt()
    twice = evaluated_twice(course, (first, second), timesteps_at(course.schedule, middle), alpha_bar_of(middle))
    return replace(twice, draws_noise=True)


def _ancestral(sigma: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How much of x̂ a step with noise keeps, the rest being x₀, and the noise that it adds."""
    up = torch.minimum(end, end * (1 - (end / sigma) ** 2).clamp(min=0).sqrt())
    return (end**2 - up**2).clamp(min=0).sqrt() / sigma, up


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
