"""The noise schedule: ᾱ_t over the training steps, and which of them a run of S steps visits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core.model_directory.scheduler_config import Rule, SchedulerConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseSchedule:
    """q(z_t | z_0) = N(√ᾱ_t z_0, (1 − ᾱ_t) I), with `alpha_bar` of shape (T,) in float32."""

    alpha_bar: Tensor
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: float | None = None
    rule: Rule = "ddim"  # how the directory's own scheduler spaces timesteps; every sampler of the model visits them
    final_sigmas_type: str = "zero"

    @classmethod
    def from_config(cls, data: Mapping[str, Any], path: str = "scheduler/scheduler_config.json") -> NoiseSchedule:
        """Reads a diffusers scheduler config. Raises ModelError, naming the key, for what is not supported."""
        config = SchedulerConfig.from_json(data, path)
        alpha_bar = np.cumprod(1.0 - _betas(config))
        if config.rescale_betas_zero_snr:
            alpha_bar = _zero_terminal_snr(alpha_bar)
        return cls(
            alpha_bar=torch.from_numpy(alpha_bar).float(),
            prediction_type=config.prediction_type,
            timestep_spacing=config.timestep_spacing,
            steps_offset=config.steps_offset,
            set_alpha_to_one=config.set_alpha_to_one,
            clip_sample=config.clip_sample_range if config.clip_sample else None,
            rule=config.rule,
            final_sigmas_type=config.final_sigmas_type,
        )

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @property
    def starts_scaled(self) -> bool:
        """Whether diffusers' Euler schedulers begin with σ · n rather than √(σ² + 1) · n; see `samplers.Plan.start`."""
        return self.timestep_spacing in {"linspace", "trailing"}

    def timesteps(self, steps: int) -> tuple[list[float], list[float]]:
        """The timesteps of a run of `steps` steps, descending, and the one each step leads to (-1: the image).

        Equal to diffusers' where those cover at least nine tenths of the schedule. Elsewhere (such as 600 of 1000,
        where "leading" would begin at t = 600 with pure noise) the steps are spread evenly, so that any number of
        steps from 1 to T works. "compvis" is the research code's own rule, to reproduce its runs: 7 steps are 8 there.
        Only Euler's rule with "linspace" gives timesteps that are not whole.
        """
        total, spacing = len(self), self.timestep_spacing
        parts = steps + 1 if self.rule == "dpm" and spacing != "trailing" else steps  # it leaves out the last point
        stride = total // parts
        if spacing == "compvis":
            return _followed([min(t + 1, total - 1) for t in range(0, total, stride)][::-1])
        if self.rule != "ddim" and spacing == "linspace" and parts <= total:
            points = np.linspace(total - 1, 0, parts)[:steps]
            return _followed([float(t) for t in (points if self.rule == "euler" else points.round())])
        if stride * parts < 0.9 * total:
            offset = self._offset(int((steps - 1) * total / steps))
            return _followed([int(i * total / steps) + offset for i in range(steps)][::-1])
        if spacing == "leading":
            first = parts - steps
            offset = self._offset((parts - 1) * stride)
            visited = [i * stride + offset for i in range(first, parts)][::-1]
        elif spacing == "trailing":
            visited = [round(float(t)) - 1 for t in np.arange(total, 0, -total / steps)][:steps]
        else:
            visited = np.linspace(0, total - 1, steps).round().astype(int)[::-1].tolist()
        return list(visited), [max(t - stride, -1) for t in visited]

    def along(self, timesteps: Sequence[float], last: float | None = None) -> Tensor:
        """ᾱ at `timesteps` (S,), in float64. -1 is the image: `last`, or what `set_alpha_to_one` says it is."""
        if last is None:
            last = 1.0 if self.set_alpha_to_one else float(self.alpha_bar[0])
        return torch.tensor([self._at(t) if t >= 0 else last for t in timesteps], dtype=torch.float64)

    def _at(self, t: float) -> float:
        """ᾱ at a timestep; between two of them the noise level σ is interpolated, as diffusers does."""
        if t == int(t):
            return float(self.alpha_bar[int(t)])
        low, high = (float((1 - a) / a) ** 0.5 for a in self.alpha_bar[int(t) : int(t) + 2].double())
        sigma = low + (t - int(t)) * (high - low)
        return 1 / (1 + sigma**2)

    @property
    def end(self) -> float:
        """ᾱ at which samplers that count in noise levels end."""
        return 1.0 if self.final_sigmas_type == "zero" else float(self.alpha_bar[0])

    def _offset(self, highest: int) -> int:
        """`steps_offset`, unless it would leave the schedule (1000 of 1000 steps with an offset of 1)."""
        return self.steps_offset if highest + self.steps_offset < len(self) else 0

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """√ᾱ_t x + √(1 − ᾱ_t) ε, one t a row (B,)."""
        return noised(x, noise, self.alpha_bar.to(x.device)[t])


def noised(x: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """√ᾱ x + √(1 − ᾱ) ε, one ᾱ a row (B,)."""
    alpha_bar = alpha_bar.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise


def _followed(visited: Sequence[float]) -> tuple[list[float], list[float]]:
    """Each timestep leads to the next one, the last to the image."""
    return [*visited], [*visited[1:], -1]


def _betas(config: SchedulerConfig) -> np.ndarray[Any, Any]:
    total, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        return np.asarray(config.trained_betas, dtype=np.float64)
    if config.beta_schedule == "linear":
        return np.linspace(start, end, total)
    if config.beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, total) ** 2
    return np.array([min(1 - _cosine((i + 1) / total) / _cosine(i / total), 0.999) for i in range(total)])


def _cosine(u: float) -> float:
    """ᾱ(u) of Nichol & Dhariwal 2021, equation 17."""
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def _zero_terminal_snr(alpha_bar: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Shifts and scales √ᾱ so that the last one is zero (Lin et al. 2023, algorithm 1)."""
    root = np.sqrt(alpha_bar)
    return np.asarray(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)
