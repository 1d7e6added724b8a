"""The shipped directories in diffusers' own pipelines: same x_T, steps and guidance, same latents and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin"
LATENTS, LEVELS = 1e-3, 2
PROMPT, NEGATIVE, SEED, STEPS = "a red house by the sea at sunset", "", 7, 6


def run(model: LatentDiffusion, params: GenerationParams, **images: Image.Image) -> tuple[torch.Tensor, Image.Image]:
    """Final latents and image of our own reference loop."""
    with torch.inference_mode():
        sample = tasks.begin(model, params, 0, images)
        denoiser = Denoiser(model, 2)
        while not sample.done:
            denoiser.step([sample])
        return sample.x, tasks.finish(model, sample)


def assert_same(ours: tuple[torch.Tensor, Image.Image], latents: torch.Tensor, picture: Image.Image) -> None:
    assert (ours[0] - latents).abs().max() <= LATENTS
    difference = np.asarray(ours[1]).astype(int) - np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(difference).max() <= LEVELS


def peer(kind: type[Any], directory: Path) -> Any:
    pipeline = kind.from_pretrained(str(directory), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def both(pipeline: Any, **arguments: Any) -> tuple[torch.Tensor, Image.Image]:
    """A pipeline's final latents and its image, from two runs with the same seed."""
    calls = [
        pipeline(**arguments, generator=torch.Generator().manual_seed(SEED), output_type=kind).images
        for kind in ("latent", "pil")
    ]
    return calls[0], calls[1][0]


@pytest.fixture(scope="module")
def scenes() -> LatentDiffusion:
    return load_model(BUILTIN / "scenes", "cpu", torch.float32)


def scene_picture(size: int) -> Image.Image:
    from training.scenes.render import render
    from training.scenes.scene import random_scene

    return Image.fromarray(render(random_scene(np.random.default_rng(3)), size))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_inpainting_gives_what_the_inpaint_pipeline_gives(scenes: LatentDiffusion, guidance: float) -> None:
    side = scenes.card.native_size[0]
    image, mask = scene_picture(side), Image.new("L", (side, side))
    mask.paste(255, (side // 4, side // 4, side // 2, side))
    params = GenerationParams(
        task="inpaint", width=side, height=side, steps=STEPS, guidance_scale=guidance, seed=SEED, prompt=PROMPT
    )
    latents, picture = both(
        peer(diffusers.StableDiffusionInpaintPipeline, BUILTIN / "scenes"),
        prompt=PROMPT,
        image=image,
        mask_image=mask,
        width=side,
        height=side,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
    )
    x, ours = run(scenes, params, image=image, mask=mask)
    # the pipeline leaves what it drew outside the mask; ours puts the known pixels back
    picture.paste(image, mask=mask.point(lambda level: 255 - level))
    assert_same((x, ours), latents, picture)


def test_text_to_image_is_inpainting_everything(scenes: LatentDiffusion) -> None:
    side = scenes.card.native_size[0]
    params = GenerationParams(
        task="txt2img", width=side, height=side, steps=STEPS, guidance_scale=4.0, seed=SEED, prompt=PROMPT
    )
    latents, picture = both(
        peer(diffusers.StableDiffusionInpaintPipeline, BUILTIN / "scenes"),
        prompt=PROMPT,
        image=Image.new("RGB", (side, side), (127, 127, 127)),
        mask_image=Image.new("L", (side, side), 255),
        width=side,
        height=side,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
    )
    assert_same(run(scenes, params), latents, picture)


def test_super_resolution_gives_what_the_upscale_pipeline_gives() -> None:
    model = load_model(BUILTIN / "scenes-superres", "cpu", torch.float32)
    image = scene_picture(64).resize((16, 16), Image.Resampling.BOX)
    params = GenerationParams(task="superres", width=64, height=64, steps=STEPS, guidance_scale=1.0, seed=SEED)
    latents, picture = both(
        peer(diffusers.StableDiffusionUpscalePipeline, BUILTIN / "scenes-superres"),
        prompt="",
        image=image,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        noise_level=model.card.noise_level,
    )
    assert_same(run(model, params, image=image), latents, picture)


def test_what_both_directories_share_is_held_once() -> None:
    shared: dict[str, torch.nn.Module] = {}
    first = load_model(BUILTIN / "scenes", "cpu", torch.float32, shared)
    second = load_model(BUILTIN / "scenes-superres", "cpu", torch.float32, shared)
    assert first.autoencoder is second.autoencoder
    assert first.condition is second.condition
