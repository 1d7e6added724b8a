"""Names of AUTOMATIC1111's API: samplers as ours, and its fields that change an image and are not followed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ldm_core.job_warning import JobWarning
from ldm_core.params import COUNTS_IN_TIMESTEPS, SAMPLERS, Sampler, Schedule
from service.intake.strict_json import clipped, field_problem, pointer_part

LABELS: Mapping[str, Sampler] = {
    "DDIM": "ddim", "DDPM": "ddpm", "PLMS": "plms", "DPM++ 2M": "dpmpp_2m", "Euler": "euler", "Euler a": "euler_a",
    "DPM++ 2M SDE": "dpmpp_2m_sde", "UniPC": "unipc", "Heun": "heun", "LMS": "lms", "DEIS": "deis",
    "LCM": "lcm", "TCD": "tcd", "DPM++ SDE": "dpmpp_sde",
}  # fmt: skip
ALIASES: Mapping[str, Sampler] = {
    "k_dpmpp_2m": "dpmpp_2m", "dpm++ 2m": "dpmpp_2m", "k_euler": "euler", "k_euler_a": "euler_a",
    "k_euler_ancestral": "euler_a", "euler ancestral": "euler_a",
    **{label.lower(): name for label, name in LABELS.items()}, **{name: name for name in SAMPLERS},
}  # fmt: skip
SPACINGS = (
    "karras",
    "exponential",
    "polyexponential",
    "sgm uniform",
    "uniform",
    "simple",
    "normal",
    "align your steps",
)
OWN_SPACING = {"automatic", "use same scheduler"}
SCHEDULES: Mapping[str, Schedule] = {
    "karras": "karras", "exponential": "exponential", "sgm uniform": "sgm_uniform", "sgm_uniform": "sgm_uniform",
    "align your steps": "ays", "align_your_steps": "ays", "uniform": "uniform",
}  # fmt: skip

# what leaves an image as it is, besides null, 0, false and what is empty
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "s_noise": (1,), "initial_noise_multiplier": (1,), "seed_resize_from_w": (-1,), "seed_resize_from_h": (-1,),
    "refiner_checkpoint": ("None",), "script_name": ("None",),
}  # fmt: skip
UNFOLLOWED: Mapping[str, str] = {
    "enable_hr": "enlarge with extra-single-image", "restore_faces": "no face restorer is here",
    "tiling": "edges do not meet",
    "styles": "no styles are kept here", "subseed_strength": "seeds are not mixed", "s_churn": "no noise is added",
    "s_noise": "noise is not scaled", "s_min_uncond": "guidance is never left out",
    "seed_resize_from_w": "noise is of the image's own size", "seed_resize_from_h": "noise is of the image's own size",
    "initial_noise_multiplier": "noise is not scaled", "refiner_checkpoint": "one model draws the whole image",
    "script_name": "no scripts run here", "alwayson_scripts": "no extensions run here",
    "latent_mask": "`mask` is the mask", "infotext": "parameters are read from fields alone",
    "firstphase_width": "there is no second pass",
    "firstphase_height": "there is no second pass",
}  # fmt: skip
OF_MASKS: Mapping[str, str] = {
    "inpainting_fill": "what is repainted begins from noise",
    "denoising_strength": "what is repainted begins from noise alone",
}
OF_ENLARGING: Mapping[str, str] = {
    "gfpgan_visibility": "no face restorer is here", "codeformer_visibility": "no face restorer is here",
    "extras_upscaler_2_visibility": "one model enlarges",
}  # fmt: skip
OVERRIDDEN: Mapping[str, tuple[Any, ...]] = {  # settings that change an image, and what they are here
    "CLIP_stop_at_last_layers": (1,), "sd_vae": ("Automatic", "None"), "eta_noise_seed_delta": (0,),
    "eta_ddim": (0,), "eta_ancestral": (1,), "initial_noise_multiplier": (1,), "randn_source": ("CPU",),
    "sd_hypernetwork": ("None",), "s_churn": (0,), "s_noise": (1,), "always_discard_next_to_last_sigma": (False,),
    "k_sched_type": ("Automatic",), "img2img_color_correction": (False,), "use_old_emphasis_implementation": (False,),
}  # fmt: skip


def label_of(sampler: str) -> str:
    """Our sampler as web interfaces call it."""
    return next((label for label, name in LABELS.items() if name == sampler), sampler)


def read_sampler(name: str) -> tuple[Sampler, str]:
    """Our sampler, and the spacing of noise levels that its name asks for, if it does. Raises Problem."""
    text, spacing = name.strip().lower(), ""
    for known in SPACINGS:
        if text.endswith(f" {known}"):
            text, spacing = text.removesuffix(known).strip(), known
    if text not in ALIASES:
        raise field_problem("sampler_name", f"{clipped(name)!r} is not known here; there are {', '.join(LABELS)}")
    return ALIASES[text], spacing


def read_spacing(sampler: Sampler | None, spacings: Mapping[str, str]) -> tuple[Schedule | None, list[JobWarning]]:
    """The schedule that the last of these fields asks for, and a warning for each that is not followed.

    Without a sampler's name it is not known whether the model's own has such schedules.
    """
    follows = sampler is not None and sampler not in COUNTS_IN_TIMESTEPS
    own = OWN_SPACING if follows else {*OWN_SPACING, "uniform"}  # which is how timesteps are spaced anyway
    asked = [(field, spacing) for field, spacing in spacings.items() if spacing and spacing.lower() not in own]
    followed = {field for field, spacing in asked[-1:] if follows and spacing.lower() in SCHEDULES}
    warnings = []
    for field, spacing in asked:
        if field not in followed:
            detail = f"The spacing of noise levels {clipped(spacing)!r} is not followed here."
            warnings.append(JobWarning("schedule_ignored", detail, f"/{field}"))
    return (SCHEDULES[asked[-1][1].lower()] if followed else None), warnings


def ignored(data: Mapping[str, Any], reasons: Mapping[str, str]) -> Iterator[JobWarning]:
    """A warning for each of these fields that would change the image."""
    for field, reason in reasons.items():
        value = data.get(field)
        if value and value not in NEUTRAL.get(field, ()):
            yield JobWarning("field_ignored", f"{field} has no effect here: {reason}.", f"/{field}")


def ignored_settings(settings: Mapping[str, Any], where: str = "/override_settings") -> Iterator[JobWarning]:
    """A warning for each setting that would change the image."""
    for name, value in settings.items():
        if name in OVERRIDDEN and value is not None and value not in OVERRIDDEN[name]:
            detail = f"The setting {name} cannot be changed by this API."
            yield JobWarning("field_ignored", detail, f"{where}/{pointer_part(name)}")
