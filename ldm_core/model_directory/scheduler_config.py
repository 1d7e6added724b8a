"""What `scheduler_config.json` says: every setting is followed, known to change nothing, or named. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ldm_core.errors import ModelError
from ldm_core.job_warning import JobWarning
from ldm_core.model_directory.field_types import check_fields
from ldm_core.params import COUNTS_IN_TIMESTEPS, Schedule

MAX_TIMESTEPS = 100_000
Spacing = Literal["leading", "trailing", "linspace", "compvis"]
Rule = Literal["ddim", "euler", "dpm"]


class Kind(NamedTuple):
    """A scheduler class of diffusers: our sampler, how its timesteps are spaced, and whether the sampler is its own."""

    sampler: str
    rule: Rule
    own: bool = True


KINDS: Mapping[str, Kind] = {
    "DDIMScheduler": Kind("ddim", "ddim"),
    "DDIMParallelScheduler": Kind("ddim", "ddim"),
    "DDPMScheduler": Kind("ddpm", "ddim"),
    "DDPMParallelScheduler": Kind("ddpm", "ddim"),
    "PNDMScheduler": Kind("plms", "ddim"),
    "EulerDiscreteScheduler": Kind("euler", "euler"),
    "EulerAncestralDiscreteScheduler": Kind("euler_a", "euler"),
    "DPMSolverMultistepScheduler": Kind("dpmpp_2m", "dpm"),
    "UniPCMultistepScheduler": Kind("unipc", "dpm"),
    "DEISMultistepScheduler": Kind("deis", "dpm"),
    "HeunDiscreteScheduler": Kind("heun", "euler"),
    "LMSDiscreteScheduler": Kind("lms", "euler"),
    "DPMSolverSDEScheduler": Kind("dpmpp_sde", "euler"),
    "LCMScheduler": Kind("lcm", "ddim"),
    "TCDScheduler": Kind("tcd", "ddim"),
    # solvers of the same equations that are not here, and the nearest that is
    "DPMSolverSinglestepScheduler": Kind("dpmpp_2m", "dpm", own=False),
    "SASolverScheduler": Kind("dpmpp_2m", "dpm", own=False),
    "KDPM2DiscreteScheduler": Kind("euler", "euler", own=False),
    "KDPM2AncestralDiscreteScheduler": Kind("euler_a", "euler", own=False),
}
# schedulers whose models need something else than these samplers, by the beginning of their names
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas")
REFUSED: Mapping[str, str] = {
    "FlowMatch": "the model was trained by flow matching",
    "EDM": "the model was trained with the preconditioning of EDM",
    "CMStochasticIterative": "the model is a consistency model",
    "UnCLIP": "the model is unCLIP",
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # diffusers' own, where they differ by class
    "ddim": {"timestep_spacing": "leading", "set_alpha_to_one": True, "clip_sample": True},
    "euler": {"timestep_spacing": "linspace"},
    "dpm": {"timestep_spacing": "linspace"},
}
HEUN_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
CLASS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "PNDMScheduler": {"set_alpha_to_one": False, "clip_sample": False, "skip_prk_steps": False},
    "HeunDiscreteScheduler": HEUN_BETAS,
    "DPMSolverSDEScheduler": HEUN_BETAS,
    "LCMScheduler": {**HEUN_BETAS, "beta_schedule": "scaled_linear", "clip_sample": False},
    "TCDScheduler": {**HEUN_BETAS, "beta_schedule": "scaled_linear", "clip_sample": False},
    "KDPM2DiscreteScheduler": HEUN_BETAS,
    "KDPM2AncestralDiscreteScheduler": HEUN_BETAS,
}
DPM_SOLVERS, CLIPPING = ("dpmpp_2m", "dpmpp_2m_sde"), ("ddim", "ddpm", "heun", "lcm")
# settings that only some classes read; in another's file they are left over from a conversion
READ_BY: Mapping[str, tuple[str, ...]] = {
    "clip_sample": CLIPPING, "clip_sample_range": CLIPPING, "set_alpha_to_one": ("ddim", "plms"),
    "variance_type": ("ddpm",), "skip_prk_steps": ("plms",), "final_sigmas_type": ("euler", "unipc", *DPM_SOLVERS),
    "interpolation_type": ("euler",), "timestep_type": ("euler",), "solver_order": ("unipc", "deis", *DPM_SOLVERS),
    "algorithm_type": DPM_SOLVERS, "solver_type": ("unipc", *DPM_SOLVERS), "lambda_min_clipped": DPM_SOLVERS,
    "lower_order_final": ("unipc", "deis"), "predict_x0": ("unipc",), "disable_corrector": ("unipc",),
    "solver_p": ("unipc",), "noise_sampler_seed": ("dpmpp_sde",), "original_inference_steps": ("lcm", "tcd"),
    "timestep_scaling": ("lcm",),
}  # fmt: skip
# settings without a field here, and their values that ask for nothing; None stands for any
FOLLOWED: Mapping[str, tuple[Any, ...] | None] = {
    "skip_prk_steps": (True,),
    "variance_type": ("fixed_small", None),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "solver_order": (2,),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),  # diffusers reads the last as the first
    "solver_type": ("midpoint", "bh2", "logrho"),
    "lower_order_final": (True,),
    "predict_x0": (True,),
    "disable_corrector": ([], None),
    "solver_p": (None,),
    "noise_sampler_seed": (None,),
    "original_inference_steps": (50,),
    "timestep_scaling": (10.0,),
    "lambda_min_clipped": (-math.inf, None),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "thresholding": (False, None),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "use_dynamic_shifting": (False, None),
    # of what is off above, or of the last step, which is of first order whatever they say
    "dynamic_thresholding_ratio": None, "sample_max_value": None, "flow_shift": None, "time_shift_type": None,
    "shift_terminal": None, "euler_at_final": None,
    # of solvers that are replaced
    "predictor_order": None, "corrector_order": None, "tau_func": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """The settings that are followed. `sampler` is the directory's own, `rule` how its class spaces timesteps."""

    sampler: str = "ddim"
    rule: Rule = "ddim"
    num_train_timesteps: Annotated[int, Field(ge=1, le=MAX_TIMESTEPS)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: Annotated[int, Field(ge=0)] = 0
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: Annotated[float, Field(gt=0)] = 1.0
    rescale_betas_zero_snr: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    warnings: tuple[JobWarning, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path | str) -> SchedulerConfig:
        """Raises ModelError, naming the key, for what cannot be sampled from; what changes images is in `warnings`."""
        name = str(data.get("_class_name", "DDIMScheduler"))
        kind = _kind(name, path)
        if kind.sampler == "dpmpp_2m" and data.get("algorithm_type") == "sde-dpmsolver++":
            kind = kind._replace(sampler="dpmpp_2m_sde")
        if data.get("use_flow_sigmas"):
            raise ModelError(path, f"use_flow_sigmas: {REFUSED['FlowMatch']}, which is not served")
        config = {**DEFAULTS[kind.rule], **CLASS_DEFAULTS.get(name, {}), **data}
        config = {key: value for key, value in config.items() if kind.sampler in READ_BY.get(key, (kind.sampler,))}
        own = {key: value for key, value in config.items() if _is_setting(key, kind) and value is not None}
        read = cls(
            **check_fields(cls, own, path), sampler=kind.sampler, rule=kind.rule, warnings=_warnings(name, config)
        )
        read.check(path)
        return read

    @property
    def schedule(self) -> Schedule:
        """How the directory's own scheduler spaces its noise levels."""
        return "karras" if self.use_karras_sigmas else "exponential" if self.use_exponential_sigmas else "uniform"

    @property
    def of_stable_diffusion_1(self) -> bool:
        """Whether the noise is that for which schedules of Stable Diffusion 1 were found."""
        betas = self.beta_schedule, round(self.beta_start, 5), round(self.beta_end, 5), self.num_train_timesteps
        own = self.trained_betas is not None or self.rescale_betas_zero_snr
        return betas == ("scaled_linear", 0.00085, 0.012, 1000) and not own

    def check(self, path: Path | str) -> None:
        """What several settings must have in common. Raises ModelError."""
        total = self.num_train_timesteps
        if self.trained_betas is not None and len(self.trained_betas) != total:
            raise ModelError(path, f"trained_betas has {len(self.trained_betas)} values, num_train_timesteps = {total}")
        if self.use_karras_sigmas and self.use_exponential_sigmas:
            raise ModelError(path, "use_karras_sigmas and use_exponential_sigmas: only one of them can be followed")
        if self.steps_offset >= total:
            raise ModelError(path, f"steps_offset = {self.steps_offset} is not below num_train_timesteps = {total}")


SETTINGS = frozenset(SchedulerConfig.__dataclass_fields__) - {"sampler", "rule", "warnings"}


def _is_setting(key: str, kind: Kind) -> bool:
    """Whether a field here has it: spacings of noise levels are for samplers that count in these."""
    return key in SETTINGS and not (key in SPACINGS and kind.sampler in COUNTS_IN_TIMESTEPS)


def _kind(name: str, path: Path | str) -> Kind:
    if name in KINDS:
        return KINDS[name]
    refused = next((why for start, why in REFUSED.items() if name.startswith(start)), None)
    if refused is not None:
        raise ModelError(path, f"{name}: {refused}, which is not served here")
    raise ModelError(path, f"scheduler {name} is not known here (only {', '.join(KINDS)})")


def _warnings(name: str, config: Mapping[str, Any]) -> tuple[JobWarning, ...]:
    """One for the class, if its solver is not here, and one for each setting that is not followed."""
    kind, found = KINDS[name], []
    if not kind.own:
        detail = f"the directory's {name} is not here; the default is {kind.sampler} instead"
        found.append(JobWarning("scheduler_replaced", detail))
    for key, value in config.items():
        if key.startswith("_") or _is_setting(key, kind):
            continue
        followed = FOLLOWED.get(key, (None, False))
        if (kind.own or key not in OF_SOLVERS) and followed is not None and value not in followed:
            detail = f"the directory's scheduler setting {key} = {value!r:.60} is not followed"
            found.append(JobWarning("scheduler_setting_ignored", detail))
    return tuple(found)


# where the solver itself is replaced, one warning says so
OF_SOLVERS = ("solver_order", "algorithm_type", "solver_type", "interpolation_type", "timestep_type")
