"""The samplers of the research code: DDIM, DDPM and PLMS, which count in timesteps."""

from __future__ import annotations

import torch

from ldm_core.sampling.course import Course
from ldm_core.sampling.plan import COLUMNS, EPS, HISTORY, KEEP_EPS, MEMORY, NOISE, X0, Plan, X, plan, plan_of


def ddim(course: Course, eta: float) -> Plan:
    """DDIM (Song et al. 2021, equations 12 and 16): `eta` 0 is deterministic, 1 is like DDPM."""
    a, a_next = course.schedule.along(course.visited), course.schedule.along(course.following)
    sigma = eta * torch.sqrt((1 - a_next) / (1 - a)) * torch.sqrt((1 - a / a_next).clamp(min=0))
    direction = (1 - a_next - sigma**2).clamp(min=0).sqrt()
    return plan(course.visited, a, {X0: a_next.sqrt(), EPS: direction, NOISE: sigma}, draws_noise=eta > 0)


def ddpm(course: Course, eta: float) -> Plan:
    """Ancestral sampling with the smaller variance (Ho et al. 2020, equations 6 and 7), strided or not."""
    a, a_next = course.schedule.along(course.visited), course.schedule.along(course.following, last=1.0)
    alpha = a / a_next
    sigma = torch.sqrt(((1 - a_next) / (1 - a) * (1 - alpha)).clamp(min=1e-20)) * (torch.tensor(course.visited) > 0)
    weights = {
        X0: a_next.sqrt() * (1 - alpha) / (1 - a),
        X: alpha.sqrt() * (1 - a_next) / (1 - a),
        NOISE: sigma,
    }
    return plan(course.visited, a, weights, draws_noise=True)


def plms(course: Course, eta: float) -> Plan:
    """Pseudo linear multistep (Liu et al. 2022, equations 9, 12 and 13), as CompVis runs it.

    The first step evaluates twice and takes the mean of both ε. Row 2 of the table starts at x after row 1 and adds
    turn / 2 · (ε₂ − ε₁).
    """
    visited = course.visited
    a, a_next = course.alpha_bar, course.schedule.along(course.following)
    stay = (a_next / a).sqrt()
    turn = (1 - a_next).sqrt() - stay * (1 - a).sqrt()  # DDIM's step is stay · x + turn · ε
    adams_bashforth = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    weights = torch.zeros(len(visited), COLUMNS, dtype=torch.float64)
    weights[:, X], weights[:, KEEP_EPS] = stay, 1.0
    for i in range(len(visited)):
        terms = torch.tensor(adams_bashforth[min(i, MEMORY)], dtype=torch.float64)
        weights[i, EPS : EPS + len(terms)] = turn[i] * terms
    again = torch.zeros(1, COLUMNS, dtype=torch.float64)
    again[0, [X, EPS, HISTORY]] = torch.stack([torch.ones_like(turn[0]), turn[0] / 2, -turn[0] / 2])
    second = min(1, len(visited) - 1)
    return plan_of(
        [visited[0], visited[second], *visited[1:]],
        torch.cat([a[:1], a[second : second + 1], a[1:]]),
        torch.cat([weights[:1], again, weights[1:]]),
    )
