"""`ldm import`: a checkpoint and its yaml into a model directory, strictly, and whole or not at all."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.checkpoints.components import Checkpoint, MissingWeights, parameters
from ldm_core.checkpoints.conditions import ConditionPart
from ldm_core.checkpoints.configs import DIFFUSION, KL, VQ, autoencoder_config
from ldm_core.checkpoints.diffusion import Diffusion, read_diffusion
from ldm_core.checkpoints.first_stages import NO_SCALE, write_given
from ldm_core.checkpoints.keys import Tidied
from ldm_core.checkpoints.labels import write_labels
from ldm_core.checkpoints.names import first_stage_source, unet_source
from ldm_core.checkpoints.reader import read_yaml
from ldm_core.errors import ModelError
from ldm_core.loading.tokenizer import TokenizerClass, read_tokenizer
from ldm_core.loading.tokenizer_fetching import tokenizer_folder
from ldm_core.model_directory.card_reader import read_card
from ldm_core.model_directory.components import write_json
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from ldm_core.weights.checkpoint import open_checkpoint
from ldm_core.weights.recognising import refuse_other_models, refuse_other_scope, refuse_other_sizes

logger = logging.getLogger(__name__)

UNET_PREFIX = "model.diffusion_model."
# weights that sampling has no use for: the schedule's tables, losses, averages beside what is averaged, other halves
# of CLIP, embeddings that were trained beside, and what transformers once stored
IGNORED = (
    "alphas_cumprod", "betas", "cond_ids", "log_one_minus_", "logvar", "lvlb_weights", "posterior_", "scale_factor",
    "sqrt_", "denoiser.", "embedding_manager.", "first_stage_model.loss.", "first_stage_model.model_ema.", "loss.",
    "low_scale_model.", "model_ema.", "cond_stage_model.model.", "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection", "cond_stage_model.transformer.logit_scale",
    "cond_stage_model.transformer.text_projection", "cond_stage_model.transformer.to_logits.",
    "cond_stage_model.transformer.vision_model.", "cond_stage_model.transformer.visual_projection",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
)  # fmt: skip
NO_FIRST_STAGE = "pass --vae DIR or FILE to take the first stage from elsewhere"


def import_checkpoint(
    ckpt: Path,
    config: Path,
    out: Path,
    *,
    ema: bool | None = None,
    tokenizer: Path | str | None = None,
    clip: Path | None = None,
    vae: Path | None = None,
    labels: Path | None = None,
    size: int | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Writes the directory `out` from a research checkpoint and returns it.

    `ema` None takes the averaged weights where the yaml says that there are some. `tokenizer` is a folder or a name
    for the transformers library, where the yaml names none that can be found; `clip` the folder of a CLIPModel, for a
    model that attends to CLIP's embeddings; `vae` a first stage in place of the checkpoint's, as a file, as the
    folder of a diffusers autoencoder, or as a directory that has one; `labels` a file with the names of its classes;
    `size` the side in pixels that it was trained at, where the yaml has another. Raises ModelError in one sentence;
    then nothing is left behind.
    """
    if out.exists():
        raise ModelError(out, "exists already; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as half:
            written = Path(half) / out.name
            written.mkdir()
            with open_checkpoint(ckpt) as state:
                refuse_other_models(ckpt, state)
                checkpoint = Checkpoint(ckpt, config, Tidied(state), progress)
                _Import(checkpoint, written, size, vae).run(ema, tokenizer, clip, labels)
            if labels is not None:
                write_labels(written, labels)
            _flush(written)
            written.rename(out)
    except OSError as error:
        raise ModelError(out, f"cannot be written: {error.strerror or error}") from None
    return out


class _Import:
    """One import: the checkpoint, where it writes, the size it was told, and a first stage from elsewhere."""

    def __init__(self, checkpoint: Checkpoint, out: Path, size: int | None, vae: Path | None) -> None:
        self._checkpoint, self._config, self._out, self._size = checkpoint, checkpoint.config, out, size
        self._vae = vae

    def run(self, ema: bool | None, tokenizer: Path | str | None, clip: Path | None, labels: Path | None) -> None:
        """Everything, the checks included."""
        model = read_yaml(self._config)
        ignored: tuple[str, ...] = IGNORED
        diffusion = model["target"] in DIFFUSION
        if diffusion or model["target"] in (*KL, *VQ):
            refuse_other_scope(self._checkpoint.file, self._config, self._checkpoint.state, diffusion=diffusion)
        if diffusion:
            parts = read_diffusion(self._config, model, scale=self._stored_scale(), clip=clip, size=self._size)
            self._diffusion(parts, ema, tokenizer, labels)
            ignored += ("cond_stage_model.",) if parts.shares_first_stage else ()
            ignored += ("first_stage_model.",) if self._vae is not None else ()
        else:
            self._leave_out(
                "describes an autoencoder alone",
                ema=ema or None, tokenizer=tokenizer, clip=clip, size=self._size, vae=self._vae, labels=labels,
            )  # fmt: skip
            self._first_stage(autoencoder_config(self._config, model, scaling_factor=NO_SCALE), "", "vqvae")
        self._checkpoint.refuse_unused(ignored)

    def _leave_out(self, reason: str, **options: object) -> None:
        """Raises ModelError for an option that is given, and that this model has no use for."""
        for name, value in options.items():
            if value is not None:
                raise ModelError(self._config, f"{reason}; leave --{name} out")

    def _stored_scale(self) -> float | None:
        """The scale of latents that was measured on the first batch, and kept beside the weights alone."""
        if (stored := self._checkpoint.state.get("scale_factor")) is None:
            return None
        scale = float(stored) if stored.numel() == 1 else 0.0
        if not 0 < scale < math.inf:
            raise ModelError(self._checkpoint.file, "scale_factor is no positive number")
        return scale

    def _diffusion(self, parts: Diffusion, ema: bool | None, tokenizer: Path | str | None, labels: Path | None) -> None:
        """A diffusion model with all its parts."""
        condition = parts.condition
        refuse_other_sizes(self._checkpoint.file, self._config, self._checkpoint.state, parts.unet)
        self._expect_parts(condition)
        tokenizer_class = None
        if condition is not None and condition.tokenizer is not None:
            tokenizer_class = self._tokenizer(condition, tokenizer)
        else:
            self._leave_out("takes no text", tokenizer=tokenizer)
        parts.write_configs(self._out, tokenizer_class)
        try:
            card = read_card(self._out)
        except ModelError as error:
            raise ModelError(self._config, error.detail) from None
        if not card.label_count:
            self._leave_out("has no classes and no labels", labels=labels)
        self._unet(parts.unet, parts.averaged if ema is None else ema)
        self._diffusion_first_stage(parts.first_stage, parts.folder)
        if condition is not None:
            self._condition(condition, parts.unet)

    def _expect_parts(self, condition: ConditionPart | None) -> None:
        """Raises ModelError for a part that is not there at all, before gigabytes of another are written."""
        if self._vae is None:
            self._checkpoint.expect("first stage", "first_stage_model.", NO_FIRST_STAGE)
        if condition is not None and condition.wanted is not None and condition.weights is None:
            self._checkpoint.expect("condition encoder", "cond_stage_model.", f"{self._config.name} asks for one")

    def _diffusion_first_stage(self, config: AutoencoderConfig, folder: str) -> None:
        """The first stage of a diffusion model: the checkpoint's own, or the one that was given."""
        if self._vae is not None:
            write_given(self._vae, config, self._out / folder, self._config, self._checkpoint.progress)
            return
        try:
            self._first_stage(config, "first_stage_model.", folder)
        except MissingWeights as error:
            raise ModelError(error.path, f"{error.detail}; {NO_FIRST_STAGE}") from None

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
        try:
            tokenizer = read_tokenizer(tokenizer_folder(name, kind), kind, part.config.get("text_config", part.config))
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
