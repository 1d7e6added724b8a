"""The reference loop: what a seed, a batch size, a size and a mask may and may not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.errors import InvalidImage, UnsupportedTask
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.networks.conditioning import TextEncoder
from ldm_core.params import GenerationParams

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin"
PARAMS = GenerationParams(
    task="txt2img", width=64, height=64, steps=3, guidance_scale=4.0, seed=5, prompt="a red house by the sea"
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def scenes(request: pytest.FixtureRequest) -> LatentDiffusion:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return load_model(BUILTIN / "scenes", request.param, torch.float32)


def bytes_of(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(scenes: LatentDiffusion) -> None:
    first, again = (bytes_of(generate(scenes, PARAMS)) for _ in range(2))
    assert first == again
    assert first != bytes_of(generate(scenes, replace(PARAMS, seed=6)))


def test_image_i_equals_a_job_of_its_own(scenes: LatentDiffusion) -> None:
    batch = bytes_of(generate(scenes, replace(PARAMS, n=3)))
    assert batch == [bytes_of(generate(scenes, replace(PARAMS, seed=5 + i)))[0] for i in range(3)]


def test_a_prompt_is_encoded_once(scenes: LatentDiffusion) -> None:
    text = scenes.condition
    assert isinstance(text, TextEncoder)
    calls: list[None] = []
    counting = text.transformer.register_forward_hook(lambda *_: calls.append(None))
    job = replace(PARAMS, n=3, prompt="a tree that nobody has drawn yet")
    for _ in range(2):
        generate(scenes, job)
    counting.remove()
    assert 1 <= len(calls) <= 2  # the prompt, and the empty one where it is new
    with torch.no_grad():
        assert not text.context(job, {}).is_inference()  # what training can go on from


def test_guidance_eta_prompts_and_steps_all_count(scenes: LatentDiffusion) -> None:
    changes = [
        {},
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.0},
        {"eta": 1.0},
        {"steps": 4},
        {"prompt": "a snowy plain at night"},
        {"negative_prompt": "clouds"},
    ]
    results = {bytes_of(generate(scenes, replace(PARAMS, **change)))[0] for change in changes}  # type: ignore[arg-type]
    assert len(results) == len(changes)


@pytest.mark.parametrize("size", [(96, 64), (64, 128)])
def test_pictures_have_the_size_asked_for(scenes: LatentDiffusion, size: tuple[int, int]) -> None:
    (image,) = generate(scenes, replace(PARAMS, width=size[0], height=size[1]))
    assert image.size == size


@pytest.mark.parametrize("size", [(64, 64), (61, 70)])
def test_inpainting_keeps_every_known_pixel(scenes: LatentDiffusion, size: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    mask = Image.new("L", size)
    mask.paste(200, (10, 10, 40, 50))
    params = replace(PARAMS, task="inpaint", width=size[0], height=size[1])
    (image,) = generate(scenes, params, Image.fromarray(levels), mask)
    hole = np.asarray(mask) > 0
    assert np.array_equal(np.asarray(image)[~hole], levels[~hole])
    assert not np.array_equal(np.asarray(image)[hole], levels[hole])


@pytest.mark.parametrize("size", [(16, 16), (13, 20)])
def test_super_resolution_gives_four_times_the_size(size: tuple[int, int]) -> None:
    model = load_model(BUILTIN / "scenes-superres", "cpu", torch.float32)
    params = replace(PARAMS, task="superres", width=4 * size[0], height=4 * size[1], guidance_scale=1.0)
    (image,) = generate(model, params, Image.new("RGB", size, (90, 120, 200)))
    assert image.size == (4 * size[0], 4 * size[1])


def test_what_a_task_lacks_is_named(scenes: LatentDiffusion) -> None:
    inpaint = replace(PARAMS, task="inpaint")
    with pytest.raises(InvalidImage, match=r"image: is required|mask: is required"):
        generate(scenes, inpaint)
    with pytest.raises(InvalidImage, match="mask: is"):
        generate(scenes, inpaint, Image.new("RGB", (64, 64)), Image.new("L", (32, 64)))
    with pytest.raises(UnsupportedTask, match="superres"):
        generate(scenes, replace(PARAMS, task="superres"), Image.new("RGB", (16, 16)))


def test_progress_counts_every_step(scenes: LatentDiffusion) -> None:
    seen: list[tuple[int, int]] = []
    generate(scenes, replace(PARAMS, n=2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.gpu
@torch.inference_mode()
def test_captured_steps_give_the_bytes_of_plain_ones(scenes: LatentDiffusion) -> None:
    jobs = [replace(PARAMS, seed=seed, guidance_scale=scale) for seed, scale in ((5, 4.0), (6, 1.0), (7, 2.0))]
    found = []
    for denoiser in (Denoiser(scenes, 2), Denoiser(scenes, 2, scenes.capture)):
        samples = [tasks.begin(scenes, job, 0, {}) for job in jobs]
        while not samples[0].done:
            denoiser.step(samples)
        found.append([sample.x for sample in samples])
    assert all(torch.equal(plain, captured) for plain, captured in zip(*found, strict=True))
