"""Directories such as people download: written by the diffusers library, with small networks of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.compvis_layout import SD1


def write_stable_diffusion(out: Path, **saving: Any) -> Path:
    """What `StableDiffusionPipeline.save_pretrained` writes; `saving` are its options. Returns `out`."""
    torch.manual_seed(3)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, cross_attention_dim=32, attention_head_dim=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler,
        text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(str(SD1 / "clip-tiny"))),
        tokenizer=CLIPTokenizer.from_pretrained(str(SD1 / "clip-tiny")),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(str(out), **saving)
    return out
