"""The noise schedule: ᾱ_t over the training steps, and which of them a run of S steps visits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core.errors import ModelError

# diffusers' own defaults where they differ by class; a config written by another version may leave them out
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"},
    "DDPMScheduler": {"clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"},
    "PNDMScheduler": {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading"},
}
OTHER_DEFAULTS = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "leading"}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace", "compvis")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseSchedule:
    """q(z_t | z_0) = N(√ᾱ_t z_0, (1 − ᾱ_t) I), with `alpha_bar` of shape (T,) in float32."""

    alpha_bar: Tensor
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: float | None = None

    @classmethod
    def from_config(cls, data: Mapping[str, Any], path: str = "scheduler/scheduler_config.json") -> NoiseSchedule:
        """Reads a diffusers scheduler config. Raises ModelError, naming the key, for what is not supported."""
        config = {**CLASS_DEFAULTS.get(str(data.get("_class_name", "DDIMScheduler")), OTHER_DEFAULTS), **data}
        _check(config, path)
        alpha_bar = _alpha_bar(config)
        if config.get("rescale_betas_zero_snr"):
            alpha_bar = _zero_terminal_snr(alpha_bar)
        return cls(
            alpha_bar=torch.from_numpy(alpha_bar).float(),
            prediction_type=config.get("prediction_type", "epsilon"),
            timestep_spacing=config["timestep_spacing"],
            steps_offset=int(config.get("steps_offset", 0)),
            set_alpha_to_one=bool(config["set_alpha_to_one"]),
            clip_sample=float(config.get("clip_sample_range", 1.0)) if config["clip_sample"] else None,
        )

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def timesteps(self, steps: int) -> tuple[list[int], list[int]]:
        """The timesteps of a run of `steps` steps, descending, and the one each step leads to (-1: the picture).

        Equal to diffusers' where those cover at least nine tenths of the schedule. Elsewhere (such as 600 of 1000,
        where "leading" would begin at t = 600 with pure noise) the steps are spread evenly, so that any number of
        steps from 1 to T works. "compvis" is the research code's own rule, to reproduce its runs: 7 steps are 8 there.
        """
        total = len(self)
        stride = total // steps
        if self.timestep_spacing == "compvis":
            visited = [min(t + 1, total - 1) for t in range(0, total, stride)][::-1]
            return visited, [*visited[1:], -1]
        if stride * steps < 0.9 * total:
            visited = [min(int(i * total / steps) + self.steps_offset, total - 1) for i in range(steps)][::-1]
            return visited, [*visited[1:], -1]
        if self.timestep_spacing == "leading":
            offset = self._offset((steps - 1) * stride)
            visited = [i * stride + offset for i in range(steps)][::-1]
        elif self.timestep_spacing == "trailing":
            visited = [round(float(t)) - 1 for t in np.arange(total, 0, -total / steps)][:steps]
        else:
            visited = np.linspace(0, total - 1, steps).round().astype(int)[::-1].tolist()
        return visited, [max(t - stride, -1) for t in visited]

    def along(self, timesteps: Sequence[int], last: float | None = None) -> Tensor:
        """ᾱ at `timesteps` (S,), in float64. -1 is the picture: `last`, or what `set_alpha_to_one` says it is."""
        if last is None:
            last = 1.0 if self.set_alpha_to_one else float(self.alpha_bar[0])
        return torch.tensor([float(self.alpha_bar[t]) if t >= 0 else last for t in timesteps], dtype=torch.float64)

    def _offset(self, highest: int) -> int:
        """`steps_offset`, unless it would leave the schedule (1000 of 1000 steps with an offset of 1)."""
        return self.steps_offset if highest + self.steps_offset < len(self) else 0

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """√ᾱ_t x + √(1 − ᾱ_t) ε, one t a row (B,)."""
        alpha_bar = self.alpha_bar.to(x.device)[t].view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise


def _check(config: Mapping[str, Any], path: str) -> None:
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise ModelError(path, f"prediction_type = {config['prediction_type']!r} is not supported")
    if config["timestep_spacing"] not in SPACINGS:
        raise ModelError(path, f"timestep_spacing = {config['timestep_spacing']!r} is not supported")
    if config.get("thresholding"):
        raise ModelError(path, "thresholding = true is not supported")


def _alpha_bar(config: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    total = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
    elif kind == "linear":
        betas = np.linspace(start, end, total)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, total) ** 2
    elif kind == "squaredcos_cap_v2":
        betas = np.array([min(1 - _cosine((i + 1) / total) / _cosine(i / total), 0.999) for i in range(total)])
    else:
        raise ModelError("scheduler/scheduler_config.json", f"beta_schedule = {kind!r} is not supported")
    return np.cumprod(1.0 - betas)


def _cosine(u: float) -> float:
    """ᾱ(u) of Nichol & Dhariwal 2021, equation 17."""
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def _zero_terminal_snr(alpha_bar: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Shifts and scales √ᾱ so that the last one is zero (Lin et al. 2023, algorithm 1)."""
    root = np.sqrt(alpha_bar)
    return np.asarray(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)
