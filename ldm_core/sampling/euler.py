"""Samplers on x / √ᾱ, whose noise level σ falls from step to step (k-diffusion's)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ldm_core.sampling.course import Course, sigma_of
from ldm_core.sampling.plan import EPS, NOISE, Plan, X, plan


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
