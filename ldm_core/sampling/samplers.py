"""Samplers as tables: what a sampler does in a step is a weighted sum of tensors, and only the weights differ.

    x' = w₀ x + w₁ x₀ + w₂ ε + w₃ m₁ + w₄ m₂ + w₅ m₃ + w₆ n

with the predicted image x₀ and noise ε, what was remembered of earlier steps (m₁ the latest) and fresh noise n. A
request's `Plan` holds the weights of its steps; `update` takes one row of it for each sample, so that rows of different
samplers, step counts and η share a U-Net call. The step is exported, never the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ldm_core.sampling.schedule import NoiseSchedule

MEMORY = 3  # tensors of earlier steps that the longest multistep method needs (PLMS)
X, X0, EPS, HISTORY, NOISE, KEEP_X0, KEEP_EPS = 0, 1, 2, 3, 6, 7, 8  # columns; HISTORY is the first of MEMORY
COLUMNS = 9
PLAN = 2 + COLUMNS  # columns of a plan
FEW = 15  # steps below which DPM-Solver++ takes its last one of first order in any case


@dataclass(frozen=True, slots=True)
class Plan:
    """One request's way through the schedule, a row for each evaluation of the U-Net, the first one first; on the CPU.

    table (S, 11) float32: timestep, ᾱ, the seven weights of the sum above, then how much of x₀ and of ε is remembered,
    both zero where nothing is. PLMS has S + 1 rows for S steps. `start` is the factor of the noise that a run without
    an image begins with.
    """

    table: Tensor
    draws_noise: bool = False
    start: float = 1.0

    def __len__(self) -> int:
        return len(self.table)

    @property
    def t(self) -> Tensor:
        """(S,) int64."""
        return columns_of(self.table)[0].long()

    @property
    def alpha_bar(self) -> Tensor:
        """(S,)."""
        return columns_of(self.table)[1]

    @property
    def weights(self) -> Tensor:
        """(S, 9)."""
        return columns_of(self.table)[2]


def columns_of(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps (S,), ᾱ (S,) and weights (S, 9) from rows of plans, (S, 11) or more."""
    return table[:, 0], table[:, 1], table[:, 2:PLAN]


def split_prediction(
    x: Tensor, out: Tensor, alpha_bar: Tensor, prediction_type: str, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """The predicted image x₀ and noise ε from the network's output, whichever it was trained to give."""
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        x0, eps = (x - b * out) / a, out
    elif prediction_type == "v_prediction":
        x0, eps = a * x - b * out, a * out + b * x
    else:
        x0, eps = out, (x - a * out) / b
    return (x0 if clip is None else x0.clamp(-clip, clip)), eps


def update(
    x: Tensor, out: Tensor, history: Tensor, noise: Tensor, alpha_bar: Tensor, weights: Tensor,
    prediction_type: str = "epsilon", clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One evaluation's step of every row.

    `x`, `out`, `noise` (B, C, H, W), `history` (B, 3, C, H, W), `alpha_bar` (B,), `weights` (B, 9) → x at the next
    timestep, the predicted x₀, and the history as it is then.
    """
    w = weights[:, :, None, None, None].unbind(1)  # nine of (B, 1, 1, 1)
    x0, eps = split_prediction(x, out, alpha_bar[:, None, None, None], prediction_type, clip)
    following = w[X] * x + w[X0] * x0 + w[EPS] * eps
    for i in range(MEMORY):
        following = following + w[HISTORY + i] * history[:, i]
    following = following + w[NOISE] * noise
    kept = torch.cat([(w[KEEP_X0] * x0 + w[KEEP_EPS] * eps)[:, None], history[:, :-1]], dim=1)
    remembers = (weights[:, KEEP_X0:] != 0).any(1)[:, None, None, None, None]
    return following, x0, torch.where(remembers, kept, history)


def guide(uncond: Tensor, cond: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): both (B, C, H, W), `scale` (B,)."""
    return uncond + scale[:, None, None, None] * (cond - uncond)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # later callers may be outside inference mode
def make_plan(schedule: NoiseSchedule, sampler: str, steps: int, eta: float = 0.0, first: int = 0) -> Plan:
    """The table of `sampler` for a run of `steps` steps without the `first` ones. `eta` counts for DDIM alone."""
    visited, following = schedule.timesteps(steps)
    return SAMPLERS[sampler](schedule, visited[first:], following[first:], eta)


def ddim(schedule: NoiseSchedule, visited: list[float], following: list[float], eta: float) -> Plan:
    """DDIM (Song et al. 2021, equations 12 and 16): `eta` 0 is deterministic, 1 is like DDPM."""
    a, a_next = schedule.along(visited), schedule.along(following)
    sigma = eta * torch.sqrt((1 - a_next) / (1 - a)) * torch.sqrt((1 - a / a_next).clamp(min=0))
    direction = (1 - a_next - sigma**2).clamp(min=0).sqrt()
    return _plan(visited, a, {X0: a_next.sqrt(), EPS: direction, NOISE: sigma}, draws_noise=eta > 0)


def ddpm(schedule: NoiseSchedule, visited: list[float], following: list[float], eta: float) -> Plan:
    """Ancestral sampling with the smaller variance (Ho et al. 2020, equations 6 and 7), strided or not."""
    a, a_next = schedule.along(visited), schedule.along(following, last=1.0)
    alpha = a / a_next
    sigma = torch.sqrt(((1 - a_next) / (1 - a) * (1 - alpha)).clamp(min=1e-20)) * (torch.tensor(visited) > 0)
    weights = {
        X0: a_next.sqrt() * (1 - alpha) / (1 - a),
        X: alpha.sqrt() * (1 - a_next) / (1 - a),
        NOISE: sigma,
    }
    return _plan(visited, a, weights, draws_noise=True)


def plms(schedule: NoiseSchedule, visited: list[float], following: list[float], eta: float) -> Plan:
    """Pseudo linear multistep (Liu et al. 2022, equations 9, 12 and 13), as CompVis runs it.

    The first step evaluates twice and takes the mean of both ε. Row 2 of the table starts at x after row 1 and adds
    turn / 2 · (ε₂ − ε₁).
    """
    a, a_next = _with_some_signal(schedule.along(visited)), schedule.along(following)
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
    return _table(
        [visited[0], visited[second], *visited[1:]],
        torch.cat([a[:1], a[second : second + 1], a[1:]]),
        torch.cat([weights[:1], again, weights[1:]]),
    )


def euler(schedule: NoiseSchedule, visited: list[float], following: list[float], eta: float) -> Plan:
    """Euler's method on dx̂/dσ = ε with x̂ = x / √ᾱ (Karras et al. 2022, algorithm 2 without churn)."""
    a, a_next = _with_some_signal(schedule.along(visited)), _next_levels(schedule, visited)
    step = _sigma(a_next) - _sigma(a)
    plan = _plan(visited, a, {X: (a_next / a).sqrt(), EPS: a_next.sqrt() * step})
    return replace(plan, start=_start(schedule, a))


def euler_a(schedule: NoiseSchedule, visited: list[float], following: list[float], eta: float) -> Plan:
    """Euler's method down beyond the next noise level, and noise back up to it (k-diffusion's ancestral step)."""
    a, a_next = _with_some_signal(schedule.along(visited)), _next_levels(schedule, visited)
    here, there = _sigma(a), _sigma(a_next)
    up = there * torch.sqrt((1 - (there / here) ** 2).clamp(min=0))
    down = torch.sqrt((there**2 - up**2).clamp(min=0))
    root = a_next.sqrt()
    columns = {X: (a_next / a).sqrt(), EPS: root * (down - here), NOISE: root * up}
    return replace(_plan(visited, a, columns, draws_noise=True), start=_start(schedule, a))


def dpmpp_2m(schedule: NoiseSchedule, visited: list[float], following: list[float], eta: float) -> Plan:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), its last step of first order if it is to the image itself."""
    a, a_next = _with_some_signal(schedule.along(visited)), _next_levels(schedule, visited)
    log_snr = -_sigma(a).log()
    h = -_sigma(a_next).log() - log_snr  # infinite for a last step to the image itself
    gain = -a_next.sqrt() * torch.expm1(-h)
    x0, earlier = gain.clone(), torch.zeros_like(gain)
    for i in range(1, len(visited) - (schedule.end == 1.0 or len(visited) < FEW)):
        ratio = (log_snr[i] - log_snr[i - 1]) / h[i]
        x0[i], earlier[i] = gain[i] * (1 + 1 / (2 * ratio)), -gain[i] / (2 * ratio)
    weights = {X: ((1 - a_next) / (1 - a)).sqrt(), X0: x0, HISTORY: earlier, KEEP_X0: torch.ones_like(gain)}
    return _plan(visited, a, weights)


SAMPLERS: Mapping[str, Callable[[NoiseSchedule, list[float], list[float], float], Plan]] = {
    "ddim": ddim, "ddpm": ddpm, "plms": plms, "dpmpp_2m": dpmpp_2m, "euler": euler, "euler_a": euler_a,
}  # fmt: skip


def _next_levels(schedule: NoiseSchedule, visited: list[float]) -> Tensor:
    """ᾱ after each step: that of the next timestep visited (DDIM's rule differs by rounding), then the end."""
    return schedule.along([*visited[1:], -1], last=schedule.end)


def _start(schedule: NoiseSchedule, alpha_bar: Tensor) -> float:
    """diffusers' Euler schedulers begin with σ · n, which has √(1 − ᾱ) of the variance of noisy data, or with all."""
    return float((1 - alpha_bar[0]).sqrt()) if schedule.starts_scaled else 1.0


def _sigma(alpha_bar: Tensor) -> Tensor:
    """The noise level of x / √ᾱ."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _with_some_signal(alpha_bar: Tensor) -> Tensor:
    """ᾱ kept from zero, where x / √ᾱ has no value; the noise level that is left is diffusers' highest."""
    return alpha_bar.clamp(min=2.0**-24)


def _plan(visited: list[float], alpha_bar: Tensor, columns: Mapping[int, Tensor], *, draws_noise: bool = False) -> Plan:
    weights = torch.zeros(len(visited), COLUMNS, dtype=torch.float64)
    for column, values in columns.items():
        weights[:, column] = values
    return _table(visited, alpha_bar, weights, draws_noise=draws_noise)


def _table(visited: list[float], alpha_bar: Tensor, weights: Tensor, *, draws_noise: bool = False) -> Plan:
    table = torch.cat([torch.tensor(visited)[:, None], alpha_bar[:, None], weights], dim=1).float()
    return Plan(table, draws_noise)
