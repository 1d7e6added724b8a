"""`ldm import`: a checkpoint and its yaml into a model directory, strictly, and whole or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.compvis.checkpoint import open_checkpoint
from ldm_core.compvis.components import Checkpoint, parameters
from ldm_core.compvis.conditions import FIRST_STAGE, ConditionPart, clip_condition, read_condition
from ldm_core.compvis.configs import DIFFUSION, Reader, autoencoder_config, read_yaml, scheduler_config, unet_config
from ldm_core.compvis.labels import write_labels
from ldm_core.compvis.names import first_stage_source, unet_source
from ldm_core.config import read_card
from ldm_core.directory import UNSCALED, write_json
from ldm_core.errors import ModelError
from ldm_core.tokenizer_loading import TokenizerClass, read_tokenizer
from ldm_core.unet import UNet
from ldm_core.unet_config import UNetConfig

logger = logging.getLogger(__name__)

UNET_PREFIX = "model.diffusion_model."
# keys of the yaml that say how a model was trained, or what its other keys say already
TRAINING_ONLY = (
    "base_learning_rate", "channels", "ckpt_path", "concat_keys", "concat_mode", "cond_stage_forward", "cond_stage_key",
    "cond_stage_trainable", "finetune_keys", "first_stage_key", "ignore_keys",
    "l_simple_weight", "learn_logvar", "load_only_unet", "log_every_t", "logvar_init", "loss_type",
    "monitor", "num_timesteps_cond", "original_elbo_weight", "scale_by_std", "scheduler_config", "unet_trainable",
    "use_positional_encodings",
)  # fmt: skip
# weights that sampling has no use for: the schedule's tables, losses, averages beside what is averaged, other halves
# of CLIP, and what transformers once stored
IGNORED = (
    "alphas_cumprod", "betas", "cond_ids", "log_one_minus_", "logvar", "posterior_", "scale_factor", "sqrt_",
    "first_stage_model.loss.", "loss.", "model_ema.", "cond_stage_model.model.",
    "cond_stage_model.transformer.to_logits.", "cond_stage_model.transformer.vision_model.",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
)  # fmt: skip


def import_checkpoint(
    ckpt: Path,
    config: Path,
    out: Path,
    *,
    ema: bool | None = None,
    tokenizer: Path | str | None = None,
    clip: Path | None = None,
    labels: Path | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Writes the directory `out` from a research checkpoint and returns it.

    `ema` None takes the averaged weights where the yaml says that there are some. `tokenizer` is a folder or a name
    for the transformers library, where the yaml names none that can be found; `clip` the folder of a CLIPModel, for a
    model that attends to CLIP's embeddings; `labels` a file with the names of its classes. Raises ModelError in one
    sentence; then nothing is left behind.
    """
    if out.exists():
        raise ModelError(out, "exists already; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as half:
            written = Path(half) / out.name
            written.mkdir()
            with open_checkpoint(ckpt) as state:
                _Import(Checkpoint(ckpt, config, state, progress), written).run(ema, tokenizer, clip)
            if labels is not None:
                write_labels(written, labels)
            _flush(written)
            written.rename(out)
    except OSError as error:
        raise ModelError(out, f"cannot be written: {error.strerror or error}") from None
    return out


class _Import:
    """One import: the checkpoint, and where it writes."""

    def __init__(self, checkpoint: Checkpoint, out: Path) -> None:
        self._checkpoint, self._config, self._out = checkpoint, checkpoint.config, out

    def run(self, ema: bool | None, tokenizer: Path | str | None, clip: Path | None) -> None:
        """Everything, the checks included."""
        model = read_yaml(self._config)
        ignored: tuple[str, ...] = IGNORED
        try:
            if model["target"] in DIFFUSION:
                read = Reader(self._config, "params", model.get("params") or {})
                ignored += self._diffusion(read, ema, tokenizer, clip)
            else:
                self._first_stage(autoencoder_config(self._config, model, scaling_factor=1.0), "", "vqvae")
        except (TypeError, ValueError) as error:  # a value of another type than the research code has there
            raise ModelError(self._config, f"has a value that makes no sense: {error}") from None
        self._checkpoint.refuse_unused(ignored)

    def _diffusion(
        self, read: Reader, ema: bool | None, tokenizer: Path | str | None, clip: Path | None
    ) -> tuple[str, ...]:
        """A diffusion model with all its parts. Returns what else in the checkpoint is of no use."""
        scheduler = scheduler_config(self._config, read)
        averaged = read.take("use_ema", True)
        scale = read.take("scale_factor", 1.0)
        state = self._checkpoint.state
        if "scale_factor" in state:  # measured on the first batch, and kept beside the weights alone
            scale = float(state["scale_factor"])
        unet = unet_config(self._config, read.take("unet_config"))
        if side := read.optional("image_size"):  # the U-Net's own is often a leftover
            unet = replace(unet, sample_size=side)
        first_stage = autoencoder_config(self._config, read.take("first_stage_config"), float(scale))
        node, key = read.take("cond_stage_config"), read.optional("conditioning_key")
        read.skip(*TRAINING_ONLY)
        read.end()
        condition = clip_condition(self._config, node, key, clip) or read_condition(self._config, node)
        pipeline, folder = _pipeline(condition, unet.in_channels - first_stage.latent_channels, float(scale))
        index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.42.0"}
        if condition is not None and condition.tokenizer is not None:
            index["tokenizer"] = ["transformers", self._tokenizer(condition, tokenizer)]
        self._unet(unet, averaged if ema is None else ema)
        self._first_stage(first_stage, "first_stage_model.", folder)
        index |= {
            "unet": ["diffusers", unet.to_json()["_class_name"]],
            folder: ["diffusers", first_stage.to_json()["_class_name"]],
            "scheduler": ["diffusers", "DDIMScheduler"],
        }
        if condition is not None:
            index[condition.folder] = [condition.library, condition.class_name]
            self._condition(condition, unet)
        if pipeline.startswith("StableDiffusion"):
            index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
            index["requires_safety_checker"] = False
        write_json(self._out / "scheduler/scheduler_config.json", scheduler)
        write_json(self._out / "model_index.json", index)
        try:
            read_card(self._out)
        except ModelError as error:
            raise ModelError(self._config, error.detail) from None
        # the conditioning of inpainting_big is the first stage: the checkpoint has its weights twice
        return ("cond_stage_model.",) if node == FIRST_STAGE else ()

    def _first_stage(self, config: AutoencoderConfig, prefix: str, folder: str) -> None:
        """An autoencoder, alone or of a diffusion model."""
        with torch.device("meta"):
            network = Autoencoder(config)
        self._checkpoint.write(
            self._out / folder, config.to_json(), parameters(network), first_stage_source(config), prefix
        )

    def _unet(self, config: UNetConfig, ema: bool) -> None:
        checkpoint = self._checkpoint
        with torch.device("meta"):
            network = UNet(config)
        if ema:
            if not any(key.startswith("model_ema.") for key in checkpoint.state):
                lacks = "holds no averaged weights (model_ema); pass --no-ema to take the others"
                raise ModelError(checkpoint.file, lacks)
            checkpoint.used |= {key for key in checkpoint.state if key.startswith(UNET_PREFIX)}
        rename = _averaged if ema else str
        wanted = parameters(network)
        checkpoint.write(self._out / "unet", config.to_json(), wanted, unet_source(config), UNET_PREFIX, rename)

    def _condition(self, part: ConditionPart, unet: UNetConfig) -> None:
        folder = self._out / part.folder
        if part.width is not None and part.width != unet.cross_attention_dim:
            raise ModelError(
                self._config,
                f"unet_config.context_dim = {unet.cross_attention_dim}, {part.class_name} gives {part.width}",
            )
        if part.wanted is None or part.source is None:
            write_json(folder / "config.json", part.config)
        elif part.weights is None:
            self._checkpoint.write(folder, part.config, part.wanted, part.source, part.prefix, extra=part.extra)
        else:
            with open_checkpoint(part.weights) as state:
                beside = Checkpoint(part.weights, part.weights.parent / "config.json", state, self._checkpoint.progress)
                beside.write(folder, part.config, part.wanted, part.source)

    def _tokenizer(self, part: ConditionPart, given: Path | str | None) -> str:
        kind: TokenizerClass = BertTokenizer if part.folder == "bert" else CLIPTokenizer
        beside = self._config.parent / str(part.tokenizer)
        name = str(given or (beside if beside.exists() else part.tokenizer))
        vocabulary = part.config.get("text_config", part.config)["vocab_size"]
        try:
            tokenizer = read_tokenizer(name, kind, int(vocabulary))
        except ModelError as error:
            raise ModelError(error.path, f"{error.detail}; pass --tokenizer DIR") from None
        if part.pad is not None:
            tokenizer.pad_token = part.pad
        tokenizer.save_pretrained(str(self._out / "tokenizer"))
        return kind.__name__


def _flush(folder: Path) -> None:
    """Has everything in a folder on the disk. A rename can get there before the bytes do, and the power can fail."""
    for path in (*folder.rglob("*"), folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _averaged(key: str) -> str:
    """The name of a weight's moving average: without dots, which buffers' names cannot have there."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


def _pipeline(condition: ConditionPart | None, extra: int, scale: float) -> tuple[str, str]:
    """The pipeline for which a directory is written, and what the first stage's folder is called there.

    `extra` channels go behind the latents. diffusers' super-resolution pipeline knows no scaling of latents.
    """
    match condition.class_name if condition else None, extra:
        case "CLIPTextModel", 0:
            return "StableDiffusionPipeline", "vae"
        case "CLIPTextModel", _:
            return "StableDiffusionInpaintPipeline", "vae"
        case "LDMBertModel", 0:
            return "LDMTextToImagePipeline", "vqvae"
        case None, 0:
            return "LDMPipeline", "vqvae"
        case None, 3 if scale == 1.0:
            return UNSCALED, "vqvae"
    return "LatentDiffusion", "vqvae"
