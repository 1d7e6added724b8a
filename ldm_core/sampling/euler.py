"""Samplers on x / √ᾱ, whose noise level σ falls from step to step (k-diffusion's)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ldm_core.sampling.course import Course, sigma_of
from ldm_core.sampling.plan import COLUMNS, EPS, HISTORY, KEEP_EPS, MEMORY, NOISE, Plan, X, plan, plan_of


def euler(course: Course, eta: float) -> Plan:
    """Euler's method on dx̂/dσ = ε with x̂ = x / √ᾱ (Karras et al. 2022, algorithm 2 without churn)."""
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    step = sigma_of(a_next) - sigma_of(a)
    columns = {X: (a_next / a).sqrt(), EPS: a_next.sqrt() * step}
    return replace(plan(course.visited, a, columns), start=course.start)


def euler_a(course: Course, eta: float) -> Plan:
    """Euler's method down beyond the next noise level, and noise back up to it (k-diffusion's ancestral step)."""
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    here, there = sigma_of(a), sigma_of(a_next)
    up = there * torch.sqrt((1 - (there / here) ** 2).clamp(min=0))
    down = torch.sqrt((there**2 - up**2).clamp(min=0))
    root = a_next.sqrt()
    columns = {X: (a_next / a).sqrt(), EPS: root * (down - here), NOISE: root * up}
    return replace(plan(course.visited, a, columns, draws_noise=True), start=course.start)


def heun(course: Course, eta: float) -> Plan:
    """Heun's method (Karras et al. 2022, algorithm 1): Euler's step, then the mean of ε at both of its ends.

    The second evaluation adds √ᾱ · width / 2 · (ε₂ − ε₁) to what Euler's step gave. The last step is Euler's.
    """
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    width = sigma_of(a_next) - sigma_of(a)
    first, second = (torch.zeros(len(course), COLUMNS, dtype=torch.float64) for _ in range(2))
    first[:, X], first[:, EPS], first[:, KEEP_EPS] = (a_next / a).sqrt(), a_next.sqrt() * width, 1.0
    mean = a_next.sqrt() * width / 2
    second[:, X], second[:, EPS], second[:, HISTORY] = 1.0, mean, -mean
    return evaluated_twice(course, (first, second), course.visited[1:], a[1:])


def evaluated_twice(course: Course, weights: tuple[Tensor, Tensor], between: Sequence[float], levels: Tensor) -> Plan:
    """Lines of the first and the second evaluation in turn; the second is at `between`, and the last step has none."""
    visited, steps = course.visited, range(len(course))
    table = torch.stack(weights, dim=1).flatten(0, 1)[:-1]
    timesteps = [t for i in steps for t in (visited[i], *between[i : i + 1])]
    alpha_bar = torch.stack([course.alpha_bar[:-1], levels], dim=1).flatten()
    plan = plan_of(timesteps, torch.cat([alpha_bar, course.alpha_bar[-1:]]), table)
    return replace(plan, start=course.start, twice=True)


def lms(course: Course, eta: float) -> Plan:
    """Linear multistep of order four on dx̂/dσ = ε, for levels that are not evenly spaced (k-diffusion's)."""
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    sigma, end = sigma_of(a), sigma_of(a_next)
    weights = torch.zeros(len(course), COLUMNS, dtype=torch.float64)
    weights[:, X], weights[:, KEEP_EPS] = (a_next / a).sqrt(), 1.0
    for i in range(len(course)):
        order = min(i, MEMORY) + 1
        terms = _integrals(sigma[i + 1 - order : i + 1].flip(0), float(sigma[i]), float(end[i]))
        weights[i, [EPS, *range(HISTORY, HISTORY + order - 1)]] = a_next[i].sqrt() * terms
    return replace(plan_of(course.visited, a, weights), start=course.start)


def _integrals(nodes: Tensor, start: float, end: float) -> Tensor:
    """From `start` to `end`, of the polynomials that are one at one of the nodes and zero at the others.

    Gauss-Legendre's rule with four points is exact for them.
    """
    points, shares = np.polynomial.legendre.leggauss(4)
    at = torch.from_numpy((end - start) / 2 * points + (end + start) / 2)
    integrals = []
    for k in range(len(nodes)):
        others = torch.cat([nodes[:k], nodes[k + 1 :]])
        basis = ((at[:, None] - others) / (nodes[k] - others)).prod(1)
        integrals.append((torch.from_numpy(shares) * basis).sum() * (end - start) / 2)
    return torch.stack(integrals)
