"""Checkpoints of random weights in the research code's layout, for models of which there are no reference numbers."""

from __future__ import annotations

import copy
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from ldm_core.checkpoints.configs import autoencoder_config, unet_config
from ldm_core.checkpoints.names import first_stage_source, open_clip_source, unet_source
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.unet import UNet
from ldm_core.weights.checkpoint import open_checkpoint

SD1 = Path(__file__).resolve().parent / "golden/data/v-sd1"
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Written:
    """What `ldm import` is given."""

    ckpt: Path
    config: Path
    clip: Path | None = None


def write_checkpoint(folder: Path, model: dict[str, Any], others: State) -> tuple[Written, UNet, Autoencoder]:
    """A U-Net and a first stage made anew as `model` has them, with the weights of `others` beside them."""
    config = folder / "model.yaml"
    config.write_text(yaml.safe_dump({"model": model}))
    params = model["params"]
    torch.manual_seed(0)
    unet = UNet(unet_config(config, params["unet_config"], upscaler="low_scale_config" in params)).eval()
    scale = params.get("scale_factor", 1.0)
    first_stage = Autoencoder(autoencoder_config(config, params["first_stage_config"], scale)).eval()
    torch.save({"state_dict": research_state(unet, first_stage) | others}, folder / "model.ckpt")
    return Written(folder / "model.ckpt", config), unet, first_stage


def sd1_yaml() -> dict[str, Any]:
    """The `model` of a small Stable Diffusion 1."""
    return dict(yaml.safe_load((SD1 / "model.yaml").read_text())["model"])


def sd1_text() -> State:
    """The weights of its text encoder."""
    with open_checkpoint(SD1 / "model.ckpt") as state:
        return {key: value for key, value in state.items() if key.startswith("cond_stage_model.")}


def research_state(unet: UNet, first_stage: Autoencoder) -> State:
    """Our networks' weights under the research code's names."""
    state: State = {}
    pairs = (("model.diffusion_model.", unet, unet_source(unet.config)),
             ("first_stage_model.", first_stage, first_stage_source(first_stage.config)))  # fmt: skip
    for prefix, network, source in pairs:
        for name, value in network.state_dict().items():
            convolution = prefix == "first_stage_model." and ".attentions." in name and value.ndim == 2
            state[prefix + source(name).key] = value[..., None, None] if convolution else value
    return state


def open_clip_state(text: CLIPTextModel) -> State:
    """A transformers text tower under open_clip's names, which stack q, k and v."""
    state: State = {}
    for name, value in text.state_dict().items():
        source = open_clip_source(name)
        if source.take is None:
            state[source.key] = value
        elif source.key not in state:
            state[source.key] = torch.cat([text.state_dict()[re.sub("[qkv]_proj", f"{x}_proj", name)] for x in "qkv"])
    return state


def inpainting_stable_diffusion(folder: Path) -> Written:
    """v1-inpainting-inference.yaml, small: nine channels into the U-Net."""
    shutil.copytree(SD1 / "clip-tiny", folder / "clip-tiny")
    model = sd1_yaml()
    model["target"] = "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"
    params = model["params"]
    params |= {"conditioning_key": "hybrid", "cond_stage_key": "caption", "finetune_keys": None}
    params["unet_config"]["params"]["in_channels"] = 9
    return write_checkpoint(folder, model, sd1_text())[0]


def retrieval_augmented(folder: Path) -> Written:
    """retrieval-augmented-diffusion/768x768.yaml, small, and a CLIP as the transformers library writes it."""
    model = copy.deepcopy(sd1_yaml())
    params = model["params"]
    params |= {
        "linear_start": 0.0015, "linear_end": 0.015, "cond_stage_key": "nix", "image_size": 8, "channels": 16,
        "conditioning_key": "crossattn", "scale_by_std": False, "scale_factor": 0.22765929,
        "cond_stage_config": {"target": "torch.nn.Identity"},
    }  # fmt: skip
    unet = params["unet_config"]["params"]
    del unet["num_heads"], unet["legacy"]
    unet |= {"image_size": 8, "in_channels": 16, "out_channels": 16, "num_head_channels": 16, "context_dim": 24}
    first_stage = params["first_stage_config"]["params"]
    first_stage["embed_dim"] = 16
    first_stage["ddconfig"] |= {"z_channels": 16, "ch_mult": [1, 1, 2, 2, 2], "attn_resolutions": [16]}
    written = write_checkpoint(folder, model, {})[0]
    return Written(written.ckpt, written.config, write_clip(folder / "clip"))


def write_clip(folder: Path) -> Path:
    """A small CLIPModel with its tokenizer, as published ones are laid out."""
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": 647, "bos_token_id": 645, "eos_token_id": 646, "pad_token_id": 646}
    config = CLIPConfig(
        text_config={**common, **words}, vision_config={**common, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    torch.manual_seed(1)
    CLIPModel(config).save_pretrained(str(folder))
    for file in (SD1 / "clip-tiny").iterdir():
        if file.name != "config.json":
            shutil.copy(file, folder)
    return folder
