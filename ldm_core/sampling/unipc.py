"""UniPC: each evaluation corrects the latents that it was made at, then predicts the next ones from them."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm_core.sampling.course import Course, sigma_of
from ldm_core.sampling.plan import COLUMNS, HISTORY, KEEP_X0, X0, Plan, X, plan_of

ORDER = 2
Weights = tuple[Tensor, Tensor, Tensor]  # of the predicted images: the next one, this one, the one before


def unipc(course: Course, eta: float) -> Plan:
    """UniPC-2 with B(h) = eʰ − 1 on x₀ (Zhao et al. 2023, algorithms 1 and 2).

    The corrector starts again from the x before the last step. That one was stay · x + predicted to become the present
    x, so correcting it adds the difference between both sums of x₀ to the present x.
    """
    a, a_next = course.alpha_bar, course.next_alpha_bar()
    levels = torch.cat([-sigma_of(a).log(), -sigma_of(a_next[-1:]).log()])
    stay, root = ((1 - a_next) / (1 - a)).sqrt(), a_next.sqrt()
    weights = torch.zeros(len(course), COLUMNS, dtype=torch.float64)
    weights[:, KEEP_X0] = 1.0
    none = torch.zeros(3, dtype=torch.float64).unbind()
    predicted, corrected = none, none
    for i in range(len(course)):
        order = min(ORDER, len(course) - i, i + 1)
        added = [after - before for after, before in zip(corrected, predicted, strict=True)]
        predicted = _predictor(levels, i, root[i], order)
        corrected = _corrector(levels, i, root[i], order)
        weights[i, X] = stay[i]
        weights[i, X0] = stay[i] * added[0] + predicted[1]
        weights[i, HISTORY] = stay[i] * added[1] + predicted[2]
        weights[i, HISTORY + 1] = stay[i] * added[2]
    return plan_of(course.visited, a, weights)


def _predictor(levels: Tensor, i: int, root: Tensor, order: int) -> Weights:
    """UniP: step i without the image that is predicted at its end."""
    h = levels[i + 1] - levels[i]
    gain, none = -root * torch.expm1(-h), torch.zeros_like(h)
    if order == 1:
        return none, gain, none
    ratio = (levels[i - 1] - levels[i]) / h
    return none, gain * (1 - 0.5 / ratio), gain * 0.5 / ratio


def _corrector(levels: Tensor, i: int, root: Tensor, order: int) -> Weights:
    """UniC: step i with it."""
    h = levels[i + 1] - levels[i]
    gain, none = -root * torch.expm1(-h), torch.zeros_like(h)
    if order == 1:
        return gain * 0.5, gain * 0.5, none
    ratio = (levels[i - 1] - levels[i]) / h
    # the sums of ρ and of ρ · ratio are what the exponential integrator's first two coefficients ask for
    phi = torch.expm1(-h)
    first = (phi / -h - 1) / phi
    second = 2 * ((phi / -h - 1) / -h - 0.5) / phi
    earlier = (first - second) / (1 - ratio)
    latest = first - earlier
    return gain * latest, gain * (1 - latest - earlier / ratio), gain * earlier / ratio
