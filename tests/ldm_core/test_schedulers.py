"""A directory's own scheduler: its sampler and spacing by default, and what of it is not followed is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.errors import ModelError
from ldm_core.loading.model import load_model
from ldm_core.model_directory.card_reader import read_card
from ldm_core.params import GenerationParams
from ldm_core.sampling.schedule import NoiseSchedule
from tests.published import write_stable_diffusion

SD1 = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LATENTS, SEED = 1e-3, 5
# what published directories have
OWN: dict[str, tuple[str, Mapping[str, Any], str, int]] = {
    "stable-diffusion-1": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, "plms", 6),
    "ddim-zero-snr": (
        "DDIMScheduler",
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction",
         "clip_sample": False},
        "ddim", 6,
    ),
    "ddim-linspace": ("DDIMScheduler", {"timestep_spacing": "linspace", "clip_sample": False}, "ddim", 6),
    "turbo": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "steps_offset": 1}, "euler", 1),
    "turbo-4": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "euler", 4),
    "euler-linspace": ("EulerDiscreteScheduler", {}, "euler", 7),
    "euler-leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "euler", 7),
    "euler-sigma-min": ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, "euler", 7),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}, "euler_a", 6),
    "dpm-linspace": ("DPMSolverMultistepScheduler", {}, "dpmpp_2m", 8),
    "dpm-leading": ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "dpmpp_2m", 20),
    "dpm-sigma-min": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, "dpmpp_2m", 16),
    "dpm-v-zero-snr": (
        "DPMSolverMultistepScheduler",
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        "dpmpp_2m", 6,
    ),
    "dpm-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", 6),
    "unipc": ("UniPCMultistepScheduler", {}, "unipc", 6),
    "heun": ("HeunDiscreteScheduler", {}, "heun", 5),
    "deis": ("DEISMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "deis", 6),
    "lcm": ("LCMScheduler", {}, "lcm", 4),
    "karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "euler", 6),
    "dpm-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "dpmpp_2m", 8),
    "unipc-karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, "unipc", 6),
    "heun-exponential": ("HeunDiscreteScheduler", {"use_exponential_sigmas": True}, "heun", 4),
    "tcd": ("TCDScheduler", {}, "tcd", 4),
    "trained-betas": (
        "DDIMScheduler",
        {"trained_betas": [0.0005 + 0.000015 * i for i in range(1000)], "clip_sample": False}, "ddim", 5,
    ),
    # the pipeline overrules both
    "early": ("DDIMScheduler", {"clip_sample": True, "steps_offset": 0}, "ddim", 5),
    "cosine": ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}, "ddim", 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("published") / "sd")


def with_scheduler(published: Path, out: Path, name: str, config: Mapping[str, Any]) -> Path:
    """The same directory with another scheduler, as the library writes it."""
    shutil.copytree(published, out)
    scheduler = getattr(diffusers, name)(**{**SD1, **config})
    scheduler.save_pretrained(out / "scheduler")
    index = json.loads((out / "model_index.json").read_text())
    (out / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
    return out


@pytest.mark.parametrize("name", OWN)
def test_the_default_sampler_gives_what_the_pipeline_gives(published: Path, tmp_path: Path, name: str) -> None:
    kind, config, sampler, steps = OWN[name]
    directory = with_scheduler(published, tmp_path / name, kind, config)
    card = read_card(directory)
    assert card.default_sampler == sampler
    assert card.warnings == ()

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(directory), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"prompt": "a palm tree", "guidance_scale": 3.0, "num_inference_steps": steps}
    generator = torch.Generator().manual_seed(SEED)
    theirs = pipeline(**arguments, generator=generator, output_type="latent").images
    assert theirs.std() > 0.1

    model = load_model(directory)
    width, height = card.native_size
    asked = GenerationParams(
        task="txt2img", width=width, height=height, prompt="a palm tree", guidance_scale=3.0, steps=steps, seed=SEED,
        sampler=card.default_sampler, schedule=card.schedule_for(card.default_sampler),
    )  # fmt: skip
    with torch.inference_mode():
        sample = tasks.begin(model, asked, 0, {})
        denoiser = Denoiser(model, 2)
        while not sample.done:
            denoiser.step([sample])
    assert (sample.x - theirs).abs().max() <= LATENTS * max(1.0, float(theirs.abs().max()))


def test_an_image_to_begin_with_is_noised_to_a_level_between_timesteps(published: Path, tmp_path: Path) -> None:
    """Euler's timesteps of "linspace" are not whole."""
    directory = with_scheduler(published, tmp_path / "euler", "EulerDiscreteScheduler", {})
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    kind = diffusers.StableDiffusionImg2ImgPipeline
    pipeline = kind.from_pretrained(str(directory), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt="a palm tree", image=image, strength=0.5, guidance_scale=3.0, num_inference_steps=7,
        generator=torch.Generator().manual_seed(SEED), output_type="latent",
    ).images  # fmt: skip
    model = load_model(directory)
    asked = GenerationParams(
        task="txt2img", width=32, height=32, prompt="a palm tree", guidance_scale=3.0, steps=7, seed=SEED,
        sampler="euler", strength=0.5,
    )  # fmt: skip
    with torch.inference_mode():
        sample = tasks.begin(model, asked, 0, {"image": image})
        denoiser = Denoiser(model, 2)
        while not sample.done:
            denoiser.step([sample])
    assert (sample.x - theirs).abs().max() <= LATENTS


NOT_FOLLOWED: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "karras": ("DDIMScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas = True"),
    "beta": ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas = True"),
    "lu": ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas = True"),
    "order": ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order = 3"),
    "sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"}, "algorithm_type = 'sde-dpmsolver'"),
    "heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type = 'heun'"),
    "thresholding": ("DDIMScheduler", {"thresholding": True}, "thresholding = True"),
    "variance": ("DDPMScheduler", {"variance_type": "fixed_large"}, "variance_type = 'fixed_large'"),
    "runge-kutta": ("PNDMScheduler", {"skip_prk_steps": False}, "skip_prk_steps = False"),
    "log-linear": ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type = 'log_linear'"),
    "continuous": ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type = 'continuous'"),
    "singlestep": (
        "DPMSolverSinglestepScheduler",
        {},
        "DPMSolverSinglestepScheduler is not here; the default is dpmpp_2m",
    ),
    "unipc": ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "disable_corrector = [0]"),
    "lcm": ("LCMScheduler", {"original_inference_steps": 100}, "original_inference_steps = 100"),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_is_not_followed_is_said_once(published: Path, tmp_path: Path, name: str) -> None:
    kind, config, said = NOT_FOLLOWED[name]
    directory = with_scheduler(published, tmp_path / name, kind, {})
    warnings = read_card(change(directory, **{"skip_prk_steps": True, **config})).warnings
    assert len(warnings) == 1
    assert said in warnings[0].detail
    assert warnings[0].code in {"scheduler_setting_ignored", "scheduler_replaced"}


def change(directory: Path, **settings: Any) -> Path:
    file = directory / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return directory


def test_a_setting_that_nobody_knows_is_named_unless_it_is_off(published: Path, tmp_path: Path) -> None:
    directory = change(Path(shutil.copytree(published, tmp_path / "sd")), new_trick=0.5, other_trick=None, third=False)
    (warning,) = read_card(directory).warnings
    assert "new_trick = 0.5" in warning.detail


def test_what_is_left_over_from_a_conversion_changes_nothing(published: Path, tmp_path: Path) -> None:
    """As SD-Turbo's file has it: settings that Euler's scheduler does not read."""
    directory = with_scheduler(published, tmp_path / "sd", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"})
    change(directory, clip_sample=True, set_alpha_to_one=False, skip_prk_steps=False, sample_max_value=1.0)
    assert read_card(directory).warnings == ()
    assert load_model(directory).schedule.clip_sample is None


REFUSED: dict[str, tuple[Mapping[str, Any], str]] = {
    "flow matching": ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "trained by flow matching"),
    "flow sigmas": (
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
        "trained by flow matching",
    ),
    "edm": ({"_class_name": "EDMEulerScheduler"}, "preconditioning of EDM"),
    "unknown": ({"_class_name": "MagicScheduler"}, "scheduler MagicScheduler is not known here"),
    "prediction": ({"prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction'"),
    "betas": ({"beta_schedule": "laplace"}, "beta_schedule = 'laplace'"),
    "no number": ({"beta_start": "abc"}, "beta_start = 'abc'"),
    "infinite": ({"beta_end": float("inf")}, "beta_end = inf"),
    "no timesteps": ({"num_train_timesteps": 0}, "num_train_timesteps = 0"),
    "text for a number": ({"num_train_timesteps": "1000"}, "num_train_timesteps = '1000'"),
    "offset": ({"steps_offset": 1000}, "steps_offset = 1000 is not below"),
    "two spacings": (
        {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_exponential_sigmas": True},
        "only one of them can be followed",
    ),
    "too few betas": ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values"),
    "a bad beta": ({"trained_betas": [0.1, 2.0]}, "trained_betas[1] = 2.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sampled_from_is_refused(published: Path, tmp_path: Path, name: str) -> None:
    settings, said = REFUSED[name]
    directory = change(Path(shutil.copytree(published, tmp_path / "sd")), **settings)
    with pytest.raises(ModelError) as raised:
        read_card(directory)
    assert said in str(raised.value)
    assert "scheduler_config.json" in str(raised.value)


@pytest.mark.parametrize("steps", [1, 2, 333, 501, 777, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"])
def test_any_number_of_steps_visits_each_timestep_once(kind: str, spacing: str, steps: int) -> None:
    schedule = NoiseSchedule.from_config({"_class_name": kind, **SD1, "timestep_spacing": spacing, "steps_offset": 1})
    visited, following = schedule.timesteps(steps)
    assert len(visited) == len(set(visited)) == len(following) == steps
    assert visited == sorted(visited, reverse=True)
    assert visited[-1] >= 0 and visited[0] <= 999
