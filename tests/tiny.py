"""Tiny real models: the real classes, 32 wide, random weights, in directories like those that are shipped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import CLIPTokenizer

from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.unet import UNet
from training.export import export_model
from training.recipe import TINY
from training.scenes.tokenizer import write_tokenizer
from training.text_stage import build_text_transformer

SERVICES = {
    "scenes": {"default_steps": 4, "default_guidance_scale": 3.0, "default_for": ["txt2img", "inpaint"]},
    "scenes-superres": {
        "default_steps": 3, "default_guidance_scale": 1.0, "default_for": ["superres"], "noise_level": 0,
    },
}  # fmt: skip


def write_tiny_models(directory: Path) -> list[Path]:
    """Writes `scenes` (text-to-image, inpainting) and `scenes-superres` under `directory` and returns their paths."""
    torch.manual_seed(0)
    write_tokenizer(directory / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(str(directory / "tokenizer"))
    autoencoder, text = Autoencoder(TINY.autoencoder), build_text_transformer(TINY, tokenizer)
    for name, config in {"scenes": TINY.unet, "scenes-superres": TINY.superres}.items():
        export_model(
            directory / name,
            unet=UNet(config),
            autoencoder=autoencoder,
            text=text,
            tokenizer=tokenizer,
            service={"native_size": [64, 64], "max_pixels": 256 * 256, **SERVICES[name]},
        )
    return [directory / name for name in SERVICES]


@cache
def tiny_models() -> dict[str, LatentDiffusion]:
    """Both of them, loaded for the CPU, by id."""
    shared: dict[str, torch.nn.Module] = {}
    with TemporaryDirectory() as directory:
        paths = write_tiny_models(Path(directory))
        return {path.name: load_model(path, "cpu", torch.float32, shared) for path in paths}
