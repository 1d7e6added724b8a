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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ldm_core import tasks
from ldm_core.checkpoints import import_checkpoint
from ldm_core.denoise import Denoiser
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.params import GenerationParams, Task
from tests.compvis_layout import SD1, inpainting_stable_diffusion

DATA = Path(__file__).resolve().parents[1] / "golden/data"
LATENTS, LEVELS = 1e-3, 2
SEED, STEPS = 11, 5
FAMILIES: dict[str, tuple[str, Task]] = {
    "v-text2img-bert": ("LDMTextToImagePipeline", "txt2img"),
    "v-sd1": ("StableDiffusionPipeline", "txt2img"),
    "v-superres": ("LDMSuperResolutionPipeline", "superres"),
    "v-uncond": ("LDMPipeline", "unconditional"),
    "sd-inpainting": ("StableDiffusionInpaintPipeline", "inpaint"),
    "upscaler": ("StableDiffusionUpscalePipeline", "superres"),
}
MASK = Image.new("L", (128, 128))
MASK.paste(255, (24, 40, 96, 128))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Task]:
    """A directory, imported or of the pipeline's own making; the pipeline that it is for, and its task."""
    folder = tmp_path_factory.mktemp("models")
    out = folder / request.param
    if request.param == "upscaler":
        write_upscaler(out)
    elif request.param == "sd-inpainting":
        written = inpainting_stable_diffusion(folder)
        import_checkpoint(written.ckpt, written.config, out)
    else:
        case = DATA / request.param
        tokenizer = next(iter(case.glob("bert-*")), None)
        import_checkpoint(case / "model.ckpt", case / "model.yaml", out, tokenizer=tokenizer)
    return out, *FAMILIES[request.param]


def write_upscaler(out: Path) -> None:
    """What StableDiffusionUpscalePipeline writes of small parts with random weights."""
    torch.manual_seed(2)
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1}
    unet = diffusers.UNet2DConditionModel(
        in_channels=7, out_channels=4, sample_size=16, cross_attention_dim=32, attention_head_dim=(2, 4),
        num_class_embeds=1000, only_cross_attention=(True, False), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **blocks,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64), layers_per_block=1, latent_channels=4, scaling_factor=0.08333,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(str(SD1 / "clip-tiny"))
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(str(SD1 / "clip-tiny")))
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    low_res = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02)
    pipeline = diffusers.StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, low_res_scheduler=low_res, scheduler=scheduler
    )
    pipeline.save_pretrained(str(out))


def peer(directory: Path, name: str) -> Any:
    pipeline = getattr(diffusers, name).from_pretrained(str(directory), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_peer(pipeline: Any, arguments: dict[str, Any]) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """The latents that the pipeline decodes, in the diffusion model's space, and its image."""
    stage = getattr(pipeline, "vqvae", None) or pipeline.vae
    seen: list[Tensor] = []
    decode = stage.decode

    def spy(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(z)
        return decode(z, *args, **kwargs)

    stage.decode = spy
    generator = torch.Generator().manual_seed(SEED)
    image = pipeline(**arguments, num_inference_steps=STEPS, generator=generator).images[0]
    return seen[0] * stage.config.scaling_factor, np.asarray(image.convert("RGB")).astype(int)


def noise_picture(size: tuple[int, int]) -> Image.Image:
    levels = np.random.default_rng(4).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(levels)


def test_latents_and_image_are_those_of_the_pipeline(family: tuple[Path, str, Task], tmp_path: Path) -> None:
    directory, name, task = family
    pipeline = peer(directory, name)
    model = load_model(directory)
    width, height = model.card.native_size
    images, arguments = {}, {}
    params: dict[str, Any] = {"guidance_scale": 1.0}
    if name.startswith("StableDiffusion") or task == "txt2img":
        arguments = params = {"prompt": "sunset behind a palm tree", "guidance_scale": 4.0}
    if task in {"txt2img", "inpaint"}:
        arguments = {**arguments, "height": height, "width": width}
    if task == "inpaint":
        images = {"image": noise_picture((width, height)), "mask": MASK}
        arguments |= {"image": images["image"], "mask_image": MASK}
    elif task == "superres":
        width = height = 32 * model.card.scale
        images = {"image": noise_picture((32, 32))}
        arguments = {**arguments, **images}
    latents, image = run_peer(pipeline, arguments)

    asked = GenerationParams(task=task, width=width, height=height, steps=STEPS, seed=SEED, **params)
    with torch.inference_mode():
        sample = tasks.begin(model, asked, 0, images)
        denoiser = Denoiser(model, 2)
        while not sample.done:
            denoiser.step([sample])
        ours = np.asarray(tasks.finish(model, sample)).astype(int)
    assert (sample.x - latents).abs().max() <= LATENTS
    if task == "inpaint":  # the pipeline leaves what it drew outside the mask; ours puts the known pixels back
        image = np.where(np.asarray(MASK)[..., None] > 0, image, np.asarray(images["image"]))
    assert np.abs(ours - image).max() <= LEVELS


def test_an_upscaler_in_half_precision_decodes_in_float32_as_its_directory_asks_for(tmp_path: Path) -> None:
    write_upscaler(tmp_path / "upscaler")
    in_float32, in_float16 = (
        load_model(tmp_path / "upscaler", dtype=dtype) for dtype in (torch.float32, torch.float16)
    )
    assert in_float16.card.warnings == () and in_float16.upcasts and not in_float32.upcasts
    assert not load_model(tmp_path / "upscaler", dtype=torch.bfloat16).upcasts
    asked = GenerationParams(
        task="superres", width=128, height=128, steps=1, seed=SEED, guidance_scale=1.0, prompt="a palm tree"
    )
    with torch.inference_mode():
        sample = tasks.begin(in_float32, asked, 0, {"image": noise_picture((32, 32))})
        assert torch.equal(tasks.decode(in_float16, sample), tasks.decode(in_float32, sample))


def test_what_the_pipeline_writes_loads_and_gives_the_same(family: tuple[Path, str, Task], tmp_path: Path) -> None:
    directory, name, task = family
    peer(directory, name).save_pretrained(str(tmp_path / "saved"))
    images = []
    small = noise_picture((32, 32))
    inputs = {"superres": (small,), "inpaint": (small.resize(MASK.size), MASK)}
    for path in (directory, tmp_path / "saved"):
        model = load_model(path)
        width, height = model.card.native_size
        if task == "superres":
            width = height = 32 * model.card.scale
        prompt = "a palm tree" if model.card.text else ""
        asked = GenerationParams(
            task=task, width=width, height=height, steps=2, seed=SEED, guidance_scale=1.0, prompt=prompt
        )
        images.append(generate(model, asked, *inputs.get(task, ()))[0])
    assert images[0].tobytes() == images[1].tobytes()
