"""What a diffusion model's yaml asks for: its parts as configurations, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldm_core.checkpoints.conditions import FIRST_STAGE, ConditionPart, clip_condition, read_condition
from ldm_core.checkpoints.configs import (
    UPSCALER,
    autoencoder_config,
    low_scale_config,
    scheduler_config,
    unet_config,
)
from ldm_core.checkpoints.native_size import latent_side
from ldm_core.checkpoints.reader import Reader, Yaml
from ldm_core.errors import ModelError
from ldm_core.model_directory.components import UNSCALED, write_json
from ldm_core.networks.autoencoder import AutoencoderConfig
from ldm_core.networks.unet_config import UNetConfig

UPSCALING = "StableDiffusionUpscalePipeline"
# keys of the yaml that say how a model was trained, or what its other keys say already
TRAINING_ONLY = (
    "base_learning_rate", "channels", "ckpt_path", "concat_keys", "concat_mode", "cond_stage_forward", "cond_stage_key",
    "cond_stage_trainable", "finetune_keys", "first_stage_key", "ignore_keys",
    "l_simple_weight", "learn_logvar", "load_only_unet", "log_every_t", "logvar_init", "loss_type",
    "monitor", "num_timesteps_cond", "original_elbo_weight", "scale_by_std", "scheduler_config", "unet_trainable",
    "use_positional_encodings",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """The parts of one diffusion model. `low_scale` is how an upscaler noises the small image, and the most of it."""

    unet: UNetConfig
    first_stage: AutoencoderConfig
    condition: ConditionPart | None
    scheduler: Mapping[str, Any]
    low_scale: tuple[Mapping[str, Any], int] | None
    averaged: bool  # whether the U-Net's weights are moving averages
    pipeline: str
    folder: str  # of the first stage
    shares_first_stage: bool  # the checkpoint has its weights a second time, as those of the condition

    def write_configs(self, out: Path, tokenizer_class: str | None) -> None:
        """Everything of a model directory but weights and tokenizer. Raises ModelError if it fits no task."""
        index: dict[str, Any] = {
            "_class_name": self.pipeline,
            "_diffusers_version": "0.42.0",
            "unet": ["diffusers", self.unet.to_json()["_class_name"]],
            self.folder: ["diffusers", self.first_stage.to_json()["_class_name"]],
            "scheduler": ["diffusers", "DDIMScheduler"],
        }
        configs = {"unet": self.unet.to_json(), self.folder: self.first_stage.to_json()}
        if self.condition is not None:
            index[self.condition.folder] = [self.condition.library, self.condition.class_name]
            configs[self.condition.folder] = dict(self.condition.config)
        if tokenizer_class is not None:
            index["tokenizer"] = ["transformers", tokenizer_class]
        if self.low_scale is not None:
            config, most = self.low_scale
            index |= {"low_res_scheduler": ["diffusers", "DDPMScheduler"], "max_noise_level": most}
            write_json(out / "low_res_scheduler/scheduler_config.json", config)
        if self.pipeline.startswith("StableDiffusion"):
            index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
            index["requires_safety_checker"] = False
        write_json(out / "scheduler/scheduler_config.json", self.scheduler)
        write_json(out / "model_index.json", index)
        for name, config in configs.items():
            write_json(out / name / "config.json", config)


def read_diffusion(
    path: Path, model: Yaml, *, scale: float | None = None, clip: Path | None = None, size: int | None = None
) -> Diffusion:
    """Reads the `model` of a yaml. `scale` takes the place of its scale_factor, `size` that of its size.

    Raises ModelError.
    """
    read = Reader(path, "params", model.get("params") or {})
    upscaler = model["target"] == UPSCALER
    scheduler = scheduler_config(read)
    low_scale = low_scale_config(path, read) if upscaler else None
    averaged = read.flag("use_ema", True)
    factor = read.number("scale_factor", 1.0, least=1e-6)
    unet = unet_config(path, read.take("unet_config"), upscaler=upscaler)
    said = read.whole("image_size", unet.sample_size)  # the U-Net's own is often a leftover
    first_stage = autoencoder_config(path, read.take("first_stage_config"), factor if scale is None else scale)
    node, key = read.take("cond_stage_config"), read.optional("conditioning_key")
    read.skip(*TRAINING_ONLY)
    read.end()
    condition = clip_condition(path, node, key, clip) or read_condition(path, node)
    side = latent_side(said, size, unet, first_stage, condition, scheduler["prediction_type"])
    extra = unet.in_channels - first_stage.latent_channels
    pipeline, folder = _pipeline(condition, extra, first_stage.scaling_factor)
    if upscaler != (pipeline == UPSCALING):
        raise ModelError(path, "an upscaler, and no other model of text, has 3 channels behind its latents")
    return Diffusion(
        unet=replace(unet, sample_size=side), first_stage=first_stage, condition=condition, scheduler=scheduler,
        low_scale=low_scale, averaged=averaged, pipeline=pipeline, folder=folder,
        shares_first_stage=node == FIRST_STAGE,
    )  # fmt: skip


def _pipeline(condition: ConditionPart | None, extra: int, scale: float) -> tuple[str, str]:
    """The pipeline for which a directory is written, and what the first stage's folder is called there.

    `extra` channels go behind the latents. diffusers' super-resolution pipeline knows no scaling of latents.
    """
    match condition.class_name if condition else None, extra:
        case "CLIPTextModel", 0:
            return "StableDiffusionPipeline", "vae"
        case "CLIPTextModel", 3:
            return UPSCALING, "vae"
        case "CLIPTextModel", _:
            return "StableDiffusionInpaintPipeline", "vae"
        case "LDMBertModel", 0:
            return "LDMTextToImagePipeline", "vqvae"
        case None, 0:
            return "LDMPipeline", "vqvae"
        case None, 3 if scale == 1.0:
            return UNSCALED, "vqvae"
    return "LatentDiffusion", "vqvae"
