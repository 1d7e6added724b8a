"""Samplers of models that were distilled to a few steps: each predicts the image, and noise is put back on it."""

from __future__ import annotations

import torch

from ldm_core.sampling.course import Course
from ldm_core.sampling.plan import EPS, NOISE, X0, Plan, X, plan
from ldm_core.sampling.schedule import NoiseSchedule

TAUGHT = 50  # timesteps that distillation visits
SIGMA_DATA, TIMESTEP_SCALE = 0.5, 10.0


def taught_timesteps(schedule: NoiseSchedule, steps: int) -> tuple[list[float], list[float]]:
    """Timesteps spread over those that distillation visits, and what each leads to, as `NoiseSchedule.timesteps`.

    More steps than it visits are spread over all timesteps; diffusers refuses them.
    """
    total = len(schedule)
    if steps > TAUGHT or total < TAUGHT:
        visited = [float(round(total - i * total / steps) - 1) for i in range(steps)]
    else:
        stride = total // TAUGHT
        visited = [float((TAUGHT - i * TAUGHT // steps) * stride - 1) for i in range(steps)]
    return visited, [*visited[1:], -1]


def lcm(course: Course, eta: float) -> Plan:
    """Multistep sampling of latent consistency models (Luo et al. 2023, algorithm 3), with noise but in the last step.

    The image is c_out x₀ + c_skip x (Song et al. 2023, section 3).
    """
    a, a_next = course.alpha_bar, course.next_alpha_bar(last=1.0)
    scaled = torch.tensor(course.visited, dtype=torch.float64) * TIMESTEP_SCALE
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    root = a_next.sqrt()
    columns = {X0: root * out, X: root * skip, NOISE: (1 - a_next).sqrt()}
    return plan(course.visited, a, columns, draws_noise=True)


def tcd(course: Course, eta: float) -> Plan:
    """Strategic stochastic sampling (Zheng et al. 2024, algorithm 4): to (1 − γ) of the next timestep, then noise.

    γ is `eta`. The last step is to the lowest noise level, which is not the image itself.
    """
    following = [*course.visited[1:], 0.0]
    a, a_next = course.alpha_bar, course.schedule.along(following)
    below = course.schedule.along([float(int((1 - eta) * t)) for t in following])
    back = a_next / below  # 1 in the last step
    columns = {X0: a_next.sqrt(), EPS: back.sqrt() * (1 - below).sqrt(), NOISE: (1 - back).clamp(min=0).sqrt()}
    return plan(course.visited, a, columns, draws_noise=eta > 0)
