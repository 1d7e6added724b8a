"""Imported directories in diffusers' pipelines of their families, and what those pipelines write, loaded here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_core import tasks
from ldm_core.compvis import import_checkpoint
from ldm_core.loading import load_model
from ldm_core.params import GenerationParams, Task

DATA = Path(__file__).resolve().parents[1] / "golden/data"
LATENTS, LEVELS = 1e-3, 2
SEED, STEPS = 11, 5
FAMILIES: dict[str, tuple[str, Task]] = {
    "v-text2img-bert": ("LDMTextToImagePipeline", "txt2img"),
    "v-sd1": ("StableDiffusionPipeline", "txt2img"),
    "v-superres": ("LDMSuperResolutionPipeline", "superres"),
    "v-uncond": ("LDMPipeline", "unconditional"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Task]:
    """An imported directory, the pipeline that it is for, and its task."""
    case = DATA / request.param
    tokenizer = next(iter(case.glob("bert-*")), None)
    out = tmp_path_factory.mktemp("models") / request.param
    import_checkpoint(case / "model.ckpt", case / "model.yaml", out, tokenizer=tokenizer)
    return out, *FAMILIES[request.param]


def peer(directory: Path, name: str) -> Any:
    pipeline = getattr(diffusers, name).from_pretrained(str(directory), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_peer(pipeline: Any, arguments: dict[str, Any]) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """The latents that the pipeline decodes, in the diffusion model's space, and its picture."""
    stage = getattr(pipeline, "vqvae", None) or pipeline.vae
    seen: list[Tensor] = []
    decode = stage.decode

    def spy(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(z)
        return decode(z, *args, **kwargs)

    stage.decode = spy
    generator = torch.Generator().manual_seed(SEED)
    picture = pipeline(**arguments, num_inference_steps=STEPS, generator=generator).images[0]
    return seen[0] * stage.config.scaling_factor, np.asarray(picture.convert("RGB")).astype(int)


def test_latents_and_picture_are_those_of_the_pipeline(family: tuple[Path, str, Task], tmp_path: Path) -> None:
    directory, name, task = family
    pipeline = peer(directory, name)
    model = load_model(directory)
    width, height = model.card.native_size
    small = Image.effect_noise((32, 32), 90).convert("RGB")
    arguments: dict[str, Any] = {}
    params: dict[str, Any] = {"guidance_scale": 1.0}
    if task == "txt2img":
        params = {"prompt": "sunset behind a palm tree", "guidance_scale": 4.0}
        arguments = {**params, "height": height, "width": width}
    elif task == "superres":
        width = height = 32 * model.card.scale
        arguments = {"image": small}
    latents, picture = run_peer(pipeline, arguments)

    asked = GenerationParams(task=task, width=width, height=height, steps=STEPS, seed=SEED, **params)
    with torch.inference_mode():
        sample = tasks.begin(model, asked, 0, {"image": small} if task == "superres" else {})
        while not sample.done:
            model.step([sample], rows=2)
        ours = np.asarray(tasks.finish(model, sample)).astype(int)
    assert (sample.x - latents).abs().max() <= LATENTS
    assert np.abs(ours - picture).max() <= LEVELS


def test_what_the_pipeline_writes_loads_and_gives_the_same(family: tuple[Path, str, Task], tmp_path: Path) -> None:
    directory, name, task = family
    peer(directory, name).save_pretrained(str(tmp_path / "saved"))
    pictures = []
    small = Image.effect_noise((24, 24), 90)
    for path in (directory, tmp_path / "saved"):
        model = load_model(path)
        width, height = model.card.native_size
        prompt = "a palm tree" if task == "txt2img" else ""
        asked = GenerationParams(
            task=task, width=width, height=height, steps=2, seed=SEED, guidance_scale=1.0, prompt=prompt
        )
        pictures.append(model.generate(asked, small if task == "superres" else None)[0])
    assert pictures[0].tobytes() == pictures[1].tobytes()
