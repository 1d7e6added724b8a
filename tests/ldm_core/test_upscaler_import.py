"""A checkpoint in the layout of Stable Diffusion's x4 upscaler: what it becomes runs in diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_core import tasks
from ldm_core.checkpoints import import_checkpoint
from ldm_core.denoise import Denoiser
from ldm_core.errors import ModelError
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.json_files import read_json
from ldm_core.params import GenerationParams
from ldm_core.weights.reading import read_weights
from tests.compvis_layout import SD1, Written, open_clip_state, write_checkpoint
from tests.compvis_zoo import STABLE_DIFFUSION

LATENTS, LEVELS, SEED, STEPS = 1e-3, 2, 7, 5
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 32,
    "vocab_size": 647, "max_position_embeddings": 77, "hidden_act": "gelu", "bos_token_id": 645,
    "eos_token_id": 646, "pad_token_id": 0,
}  # fmt: skip


def small() -> dict[str, Any]:
    """x4-upscaling.yaml with fewer channels."""
    model = dict(STABLE_DIFFUSION["configs/stable-diffusion/x4-upscaling"])
    params = model["params"] = dict(model["params"], image_size=16)
    unet = params["unet_config"]["params"] | {"model_channels": 32, "num_heads": 4, "context_dim": 32}
    unet |= {"channel_mult": [1, 2, 2], "disable_self_attentions": [True, True, False], "num_res_blocks": 1}
    params["unet_config"] = params["unet_config"] | {"params": unet}
    first_stage = params["first_stage_config"]["params"]
    ddconfig = first_stage["ddconfig"] | {"ch": 32, "num_res_blocks": 1}
    params["first_stage_config"] = params["first_stage_config"] | {"params": first_stage | {"ddconfig": ddconfig}}
    return model


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    monkeypatch.setattr("ldm_core.checkpoints.conditions.OPEN_CLIP_VIT_H", SIZES)
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(**SIZES)).eval()
    state = {f"cond_stage_model.model.{key}": value for key, value in open_clip_state(text).items()}
    state["low_scale_model.betas"] = torch.linspace(0, 1, 1000)
    return write_checkpoint(tmp_path, small(), state)[0]


def imported(written: Written, folder: Path) -> Path:
    return import_checkpoint(written.ckpt, written.config, folder / "out", tokenizer=SD1 / "clip-tiny")


def run(model: LatentDiffusion, params: GenerationParams, image: Image.Image) -> tuple[torch.Tensor, Image.Image]:
    with torch.inference_mode():
        sample = tasks.begin(model, params, 0, {"image": image})
        denoiser = Denoiser(model, 2)
        while not sample.done:
            denoiser.step([sample])
        return sample.x, tasks.finish(model, sample)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_it_is_what_the_upscale_pipeline_makes_of_it(written: Written, tmp_path: Path, guidance: float) -> None:
    out = imported(written, tmp_path)
    model = load_model(out)
    assert (model.card.tasks, model.card.native_size, model.card.scale) == (("superres",), (64, 64), 4)
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    params = GenerationParams(
        task="superres", width=64, height=64, steps=STEPS, guidance_scale=guidance, seed=SEED, prompt="a palm"
    )
    latents, shown = run(model, params, image)
    pipeline = diffusers.StableDiffusionUpscalePipeline.from_pretrained(str(out))
    pipeline.set_progress_bar_config(disable=True)
    asked = {"image": image, "num_inference_steps": STEPS, "guidance_scale": guidance, "noise_level": 20}
    expected, theirs = (
        pipeline(prompt="a palm", generator=torch.Generator().manual_seed(SEED), output_type=kind, **asked).images
        for kind in ("latent", "pil")
    )
    assert (latents - expected).abs().max() <= LATENTS
    difference = np.asarray(shown).astype(int) - np.asarray(theirs[0]).astype(int)
    assert np.abs(difference).max() <= LEVELS


def test_its_weights_have_the_names_that_diffusers_gives_them(written: Written, tmp_path: Path) -> None:
    folder = imported(written, tmp_path) / "unet"
    config = read_json(folder / "config.json") | {"class_embed_type": None}
    stored = torch.load(written.ckpt, weights_only=True)["state_dict"]
    converted = convert_ldm_unet_checkpoint(dict(stored), config)
    ours = read_weights(folder)
    assert set(converted) == set(ours) and "class_embedding.weight" in ours
    assert all(torch.equal(ours[name], value) for name, value in converted.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"low_scale_config": {"target": "x.SimpleImageConcat"}}, "low_scale_config.target = 'x.SimpleImageConcat'"),
        ({"low_scale_config": None}, "low_scale_config is missing"),
        ({"noise_level_key": "level"}, "noise_level_key = 'level'"),
        ({"target": "LatentDiffusion"}, "num_classes = 1000 is not supported"),
    ],
)
def test_what_differs_from_it_is_named(written: Written, tmp_path: Path, change: dict[str, Any], named: str) -> None:
    model = small()
    if target := change.pop("target", None):
        model["target"] = model["target"].replace("LatentUpscaleDiffusion", target)
        del model["params"]["low_scale_key"], model["params"]["low_scale_config"]
    model["params"] |= change
    written.config.write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(ModelError, match=named):
        imported(written, tmp_path)
    assert not (tmp_path / "out").exists()
