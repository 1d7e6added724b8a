"""The samplers by name, and the plan of a run with one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from ldm_core.sampling.classic import ddim, ddpm, plms
from ldm_core.sampling.consistency import lcm, taught_timesteps, tcd
from ldm_core.sampling.course import Course
from ldm_core.sampling.dpm_solver import deis, dpmpp_2m, dpmpp_2m_sde, dpmpp_sde
from ldm_core.sampling.euler import euler, euler_a, heun, lms
from ldm_core.sampling.plan import Plan
from ldm_core.sampling.schedule import NoiseSchedule
from ldm_core.sampling.spacing import spaced
from ldm_core.sampling.unipc import unipc

SAMPLERS: Mapping[str, Callable[[Course, float], Plan]] = {
    "ddim": ddim, "ddpm": ddpm, "plms": plms, "dpmpp_2m": dpmpp_2m, "euler": euler, "euler_a": euler_a,
    "dpmpp_2m_sde": dpmpp_2m_sde, "unipc": unipc, "heun": heun, "lms": lms,
    "deis": deis, "lcm": lcm, "tcd": tcd, "dpmpp_sde": dpmpp_sde,
}  # fmt: skip
DISTILLED = {"lcm", "tcd"}  # these visit what distillation did


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # later callers may be outside inference mode
def make_plan(
    schedule: NoiseSchedule, sampler: str, steps: int, eta: float = 0.0, first: int = 0, spacing: str | None = None
) -> Plan:
    """The table of `sampler` for a run of `steps` steps without the `first` ones.

    `eta` counts for DDIM and TCD, `spacing` for samplers that count in noise levels; None is the model's own.
    """
    if sampler in DISTILLED:
        visited, following = taught_timesteps(schedule, steps)
        course = Course(schedule, visited[first:], following[first:])
    else:
        course = spaced(schedule, sampler, steps, first, spacing)
    return SAMPLERS[sampler](course, eta)
