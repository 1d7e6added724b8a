"""`LatentDiffusion.step`: it changes everything or nothing, and every kind of sample fits beside every other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_core import tasks
from ldm_core.denoise import KEPT_KEYS, Denoiser
from ldm_core.model import LatentDiffusion
from ldm_core.networks.unet import UNet
from ldm_core.params import COUNTS_IN_TIMESTEPS, SAMPLERS, SCHEDULES, GenerationParams
from ldm_core.sampling.plan import columns_of, guide, update
from ldm_core.sampling.sample import Sample
from tests.tiny import tiny_models

PICTURE = Image.effect_noise((64, 64), 80).convert("RGB")
MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 16, 48, 48))


def params(**changes: Any) -> GenerationParams:
    common: dict[str, Any] = {
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 3.0,
        "seed": 5,
        "prompt": "a boat",
    }
    return GenerationParams(**{"task": "txt2img", **common, **changes})


def begin(model: LatentDiffusion, asked: GenerationParams) -> Sample:
    images = {"image": PICTURE} if asked.task == "inpaint" or asked.strength is not None else {}
    if asked.task == "inpaint":
        images["mask"] = MASK
    with torch.inference_mode():
        return tasks.begin(model, asked, 0, images)


def walk(model: LatentDiffusion, samples: list[Sample]) -> list[Tensor]:
    denoiser = Denoiser(model, rows=2)
    while left := [sample for sample in samples if not sample.done]:
        denoiser.step(left)
    return [sample.x for sample in samples]


REQUESTS = [
    *(params(sampler=name) for name in SAMPLERS),
    *(
        params(sampler=name, schedule=schedule, seed=i)
        for i, name in enumerate(SAMPLERS)
        if name not in COUNTS_IN_TIMESTEPS
        for schedule in SCHEDULES
    ),
    params(sampler="heun", strength=0.5, steps=6),
    params(task="inpaint", sampler="unipc"),
    params(task="inpaint", sampler="dpmpp_sde", schedule="karras"),
    params(eta=1.0, seed=9),
    params(guidance_scale=1.0),
    params(guidance_start=0.25, guidance_end=0.75),
    params(guidance_end=0.5, sampler="dpmpp_2m"),
    params(strength=0.5, steps=6),
    params(task="inpaint", sampler="euler_a"),
]


def test_requests_of_every_kind_together_are_what_they_are_alone() -> None:
    model = tiny_models()["scenes"]
    alone = [walk(model, [begin(model, asked)])[0] for asked in REQUESTS]
    together = walk(model, [begin(model, asked) for asked in REQUESTS])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("fails", ["predict", "draw"])
def test_a_step_that_raises_spends_no_noise_and_changes_nothing(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models()["scenes"]
    asked = [params(eta=1.0), params(sampler="ddpm", seed=6), params(task="inpaint", sampler="euler_a")]
    expected = walk(model, [begin(model, one) for one in asked])

    samples = [begin(model, one) for one in asked]
    broken = samples[-1]
    with monkeypatch.context() as patch:
        if fails == "predict":
            patch.setattr(model, "predict", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        else:  # the last one's noise cannot be had, when the others' is drawn
            patch.setattr(type(broken.noise), "draw", _drawing_but_for(broken.noise))
        with pytest.raises(RuntimeError):
            Denoiser(model, rows=2).step(samples)
    assert [sample.step for sample in samples] == [0, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(walk(model, samples), expected, strict=True))


def _drawing_but_for(broken: Any) -> Any:
    draw = type(broken).draw

    def drawing(self: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
        if self is broken:
            raise RuntimeError("out of memory")
        return Tensor(draw(self, shape, device))

    return drawing


def test_sizes_beyond_those_that_are_kept_go_on_where_they_were() -> None:
    """The slots of a size that was stepped longest ago are given up; its samples take their state along."""
    model = tiny_models()["scenes"]
    sizes = [(64 + 16 * i, 64) for i in range(KEPT_KEYS + 2)]
    jobs = [params(width=width, height=height, sampler="plms") for width, height in sizes]
    denoiser, samples = Denoiser(model, rows=2), [begin(model, job) for job in jobs]
    while not samples[0].done:
        for sample in samples:
            denoiser.step([sample])
    alone = [walk(model, [begin(model, job)])[0] for job in jobs]
    assert all(torch.equal(sample.x, expected) for sample, expected in zip(samples, alone, strict=True))


@pytest.mark.parametrize(
    ("start", "end", "rows"),
    [(0.0, 1.0, [2, 2, 2, 2, 2]), (0.2, 0.6, [1, 2, 2, 1, 1]), (0.3, 1.0, [1, 1, 2, 2, 2]), (0.9, 0.95, [1] * 5)],
)
@torch.inference_mode()
def test_guidance_in_a_part_of_the_run(start: float, end: float, rows: list[int]) -> None:
    """A step is guided if all of it lies in that part; the others see the prompt alone."""
    model = tiny_models()["scenes"]
    asked = params(steps=5, guidance_start=start, guidance_end=end)
    sample, denoiser = begin(model, asked), Denoiser(model, rows=1)
    context, x, table = sample.context, sample.x.clone(), sample.plan.table
    assert context is not None
    found = []
    for i in range(5):
        found.append(sample.rows)
        denoiser.step([sample])
        t, alpha_bar, weights = columns_of(table[i : i + 1])
        with_it = model.predict(x, t, context[1:], sample.concat)
        without = model.predict(x, t, context[:1], sample.concat)
        out = guide(without, with_it, torch.tensor([3.0])) if rows[i] == 2 else with_it
        x, _, _ = update(x, out, sample.history, torch.zeros_like(x), alpha_bar, weights)
    assert found == rows
    assert (sample.x - x).abs().max() < 1e-5


def test_a_text_model_without_mask_channels_keeps_what_is_known() -> None:
    """What is known is noised anew at every step: in the end the latents there are the image's own."""
    model = tiny_models()["scenes"]
    plain = tiny_without_hole(model)
    sample = begin(plain, params(task="inpaint", guidance_scale=1.0))
    assert sample.concat is None and sample.known_latents is not None
    latents, mask = sample.known_latents
    denoiser = Denoiser(plain, rows=1)
    while not sample.done:
        previous = sample.step
        denoiser.step([sample])
        if not sample.done:
            level = plain.schedule.alpha_bar[sample.plan.t[previous + 1]]
            noise = (sample.x - level.sqrt() * latents) / (1 - level).sqrt()
            known = noise[(mask > 0).expand_as(noise)]
            assert abs(known.mean()) < 0.2 and 0.8 < known.std() < 1.2
    with torch.inference_mode():
        image = tasks.decode(plain, sample)
    assert torch.equal(image[:, :8], sample.known_image[0][0, :, :8] / 2 + 0.5)  # type: ignore[index]


def tiny_without_hole(model: LatentDiffusion) -> LatentDiffusion:
    """The tiny model with a U-Net that takes latents alone."""
    torch.manual_seed(0)
    unet = UNet(replace(model.unet.config, in_channels=4)).eval().requires_grad_(False)
    return replace(model, unet=unet)
