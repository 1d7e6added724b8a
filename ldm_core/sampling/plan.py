"""A sampler as a table: what it does in a step is a weighted sum of tensors, and only the weights differ.

    x' = w₀ x + w₁ x₀ + w₂ ε + w₃ m₁ + w₄ m₂ + w₅ m₃ + w₆ n

with the predicted image x₀ and noise ε, what was remembered of earlier steps (m₁ the latest) and fresh noise n. A
request's `Plan` holds the weights of its steps; `update` takes one row of it for each sample, so that rows of different
samplers, step counts and η share a U-Net call. The step is exported, never the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 3  # tensors of earlier steps that the longest multistep method needs (PLMS)
X, X0, EPS, HISTORY, NOISE = 0, 1, 2, 3, 6  # columns; HISTORY is the first of MEMORY
KEEP_X0, KEEP_EPS, KEEP_X, KEEP_NOISE = 7, 8, 9, 10
COLUMNS = 11
PLAN = 2 + COLUMNS  # columns of a plan


@dataclass(frozen=True, slots=True)
class Plan:
    """One request's way through the schedule, a row for each evaluation of the U-Net, the first one first; on the CPU.

    table (S, 13) float32: timestep, ᾱ, the seven weights of the sum above, then how much of x₀, ε, x and n is
    remembered, all zero where nothing is. PLMS has S + 1 rows for S steps; methods that evaluate each step `twice`
    have 2 S − 1, for their last step evaluates once. `start` is the factor of the noise that a run without an image
    begins with.
    """

    table: Tensor
    draws_noise: bool = False
    start: float = 1.0
    twice: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def steps_left(self, line: int) -> int:
        """Steps that are not done before `line`; while PLMS evaluates for its first one, one more than there are."""
        left = len(self) - line
        return left // 2 + (left > 0) if self.twice else left

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
        """(S, 11)."""
        return columns_of(self.table)[2]


def columns_of(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps (S,), ᾱ (S,) and weights (S, 11) from rows of plans, (S, 13) or more."""
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

    `x`, `out`, `noise` (B, C, H, W), `history` (B, 3, C, H, W), `alpha_bar` (B,), `weights` (B, 11) → x at the next
    timestep, the predicted x₀, and the history as it is then.
    """
    w = weights[:, :, None, None, None].unbind(1)  # eleven of (B, 1, 1, 1)
    x0, eps = split_prediction(x, out, alpha_bar[:, None, None, None], prediction_type, clip)
    following = w[X] * x + w[X0] * x0 + w[EPS] * eps
    for i in range(MEMORY):
        following = following + w[HISTORY + i] * history[:, i]
    following = following + w[NOISE] * noise
    latest = w[KEEP_X0] * x0 + w[KEEP_EPS] * eps + w[KEEP_X] * x + w[KEEP_NOISE] * noise
    kept = torch.cat([latest[:, None], history[:, :-1]], dim=1)
    remembers = (weights[:, KEEP_X0:] != 0).any(1)[:, None, None, None, None]
    return following, x0, torch.where(remembers, kept, history)


def guide(uncond: Tensor, cond: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): both (B, C, H, W), `scale` (B,)."""
    return uncond + scale[:, None, None, None] * (cond - uncond)


def plan(
    visited: Sequence[float], alpha_bar: Tensor, columns: Mapping[int, Tensor], *, draws_noise: bool = False
) -> Plan:
    """The plan that has these columns, and zeros in the others."""
    weights = torch.zeros(len(visited), COLUMNS, dtype=torch.float64)
    for column, values in columns.items():
        weights[:, column] = values
    return plan_of(visited, alpha_bar, weights, draws_noise=draws_noise)


def plan_of(visited: Sequence[float], alpha_bar: Tensor, weights: Tensor, *, draws_noise: bool = False) -> Plan:
    """The plan that has these weights, (S, 11)."""
    table = torch.cat([torch.tensor(visited)[:, None], alpha_bar[:, None], weights], dim=1).float()
    return Plan(table, draws_noise)
