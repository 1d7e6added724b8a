"""Writes trained networks as diffusers-layout directories, fp16 safetensors, ready for the worker and for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_core.model_directory.components import write_json
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.unet import UNet

VERSION = "0.42.0"  # of diffusers, whose layout this is

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
DDIM = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": VERSION,
    **NOISE,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
SCHEDULERS: Mapping[str, Mapping[str, Any]] = {
    # "trailing" starts at t = 999: the first step of few must not meet less noise than x_T has
    "scenes": {**DDIM, "prediction_type": "epsilon", "timestep_spacing": "trailing"},
    "scenes-superres": {**DDIM, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
}
LOW_RES_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": VERSION,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "clip_sample": True,
}
PIPELINES = {"scenes": "StableDiffusionInpaintPipeline", "scenes-superres": "StableDiffusionUpscalePipeline"}


def export_model(
    directory: Path,
    *,
    unet: UNet,
    autoencoder: Autoencoder,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    service: Mapping[str, Any],
) -> None:
    """Writes model_index.json, every component and service.json; `directory.name` is the model's id."""
    name = directory.name
    components: dict[str, Any] = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
    }
    extra: dict[str, Any] = {"requires_safety_checker": False}
    if name == "scenes-superres":
        components |= {"low_res_scheduler": ["diffusers", "DDPMScheduler"], "watermarker": [None, None]}
        extra = {"max_noise_level": 350}
        write_json(directory / "low_res_scheduler/scheduler_config.json", LOW_RES_SCHEDULER)
    index = {"_class_name": PIPELINES[name], "_diffusers_version": VERSION, **extra, **components}
    write_json(directory / "model_index.json", index)
    write_json(directory / "scheduler/scheduler_config.json", SCHEDULERS[name])
    write_json(directory / "service.json", service)
    _write_network(directory / "unet", unet, unet.config.to_json())
    _write_network(directory / "vae", autoencoder, autoencoder.config.to_json())
    text.half().save_pretrained(directory / "text_encoder")
    tokenizer.save_pretrained(directory / "tokenizer")


def _write_network(directory: Path, network: nn.Module, config: Mapping[str, Any]) -> None:
    write_json(directory / "config.json", {"_diffusers_version": VERSION, **config})
    state = {key: value.detach().half().cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(state, directory / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
