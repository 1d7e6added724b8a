"""`ldm import`: a checkpoint and its yaml into a model directory, strictly, and whole or not at all."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPTokenizer

from ldm_core.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.compvis.checkpoint import open_checkpoint
from ldm_core.compvis.conditions import FIRST_STAGE, ConditionPart, parameters, read_condition
from ldm_core.compvis.configs import DIFFUSION, Reader, autoencoder_config, read_yaml, scheduler_config, unet_config
from ldm_core.compvis.names import Source, first_stage_source, unet_source
from ldm_core.compvis.writing import DTYPES, holds, write_tensors
from ldm_core.condition_loading import TokenizerClass, read_tokenizer
from ldm_core.config import read_card
from ldm_core.directory import write_json
from ldm_core.errors import ModelError
from ldm_core.loading import UNSCALED
from ldm_core.unet import UNet
from ldm_core.unet_config import UNetConfig
from ldm_core.weights import listed

logger = logging.getLogger(__name__)

UNET_PREFIX = "model.diffusion_model."
# keys of the yaml that say how a model was trained, or what its other keys say already
TRAINING_ONLY = (
    "base_learning_rate", "channels", "ckpt_path", "concat_keys", "concat_mode", "cond_stage_forward", "cond_stage_key",
    "cond_stage_trainable", "conditioning_key", "finetune_keys", "first_stage_key", "ignore_keys",
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
    progress: Callable[[str], None] = logger.info,
) -> Path:
    """Writes the directory `out` from a research checkpoint and returns it.

    `ema` None takes the averaged weights where the yaml says that there are some. `tokenizer` is a folder or a name
    for the transformers library, where the yaml names none that can be found. Raises ModelError in one sentence; then
    nothing is left behind.
    """
    if out.exists():
        raise ModelError(out, "exists already; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as half:
            written = Path(half) / out.name
            written.mkdir()
            with open_checkpoint(ckpt) as state:
                _Import(ckpt, config, state, written, progress).run(ema, tokenizer)
            written.rename(out)
    except OSError as error:
        raise ModelError(out, f"cannot be written: {error.strerror or error}") from None
    return out


class _Import:
    """One import: what it has taken from the checkpoint so far, and where it writes."""

    def __init__(
        self, ckpt: Path, config: Path, state: Mapping[str, Tensor], out: Path, progress: Callable[[str], None]
    ) -> None:
        self._ckpt, self._config, self._state, self._out, self._progress = ckpt, config, state, out, progress
        self._used: set[str] = set()
        self._ignored: tuple[str, ...] = IGNORED

    def run(self, ema: bool | None, tokenizer: Path | str | None) -> None:
        """Everything, the checks included."""
        model = read_yaml(self._config)
        try:
            if model["target"] in DIFFUSION:
                self._diffusion(Reader(self._config, "params", model.get("params") or {}), ema, tokenizer)
            else:
                self._first_stage(autoencoder_config(self._config, model, scaling_factor=1.0), prefix="")
        except (TypeError, ValueError) as error:  # a value of another type than the research code has there
            raise ModelError(self._config, f"has a value that makes no sense: {error}") from None
        self._refuse_unused()

    def _diffusion(self, read: Reader, ema: bool | None, tokenizer: Path | str | None) -> None:
        """A diffusion model with all its parts."""
        scheduler = scheduler_config(self._config, read)
        averaged = read.take("use_ema", True)
        scale = read.take("scale_factor", 1.0)
        if "scale_factor" in self._state:  # measured on the first batch, and kept beside the weights alone
            scale = float(self._state["scale_factor"])
        unet = unet_config(self._config, read.take("unet_config"))
        if side := read.optional("image_size"):  # the U-Net's own is often a leftover
            unet = replace(unet, sample_size=side)
        first_stage = autoencoder_config(self._config, read.take("first_stage_config"), float(scale))
        node = read.take("cond_stage_config")
        condition = read_condition(self._config, node)
        read.skip(*TRAINING_ONLY)
        read.end()
        if node == FIRST_STAGE:  # its weights are the first stage's, once more
            self._ignored = (*IGNORED, "cond_stage_model.")
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
            self._condition(condition)
        if pipeline.startswith("StableDiffusion"):
            index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
            index["requires_safety_checker"] = False
        write_json(self._out / "scheduler/scheduler_config.json", scheduler)
        write_json(self._out / "model_index.json", index)
        try:
            read_card(self._out)
        except ModelError as error:
            raise ModelError(self._config, error.detail) from None

    def _first_stage(self, config: AutoencoderConfig, prefix: str, folder: str = "vqvae") -> None:
        """An autoencoder, alone or of a diffusion model."""
        with torch.device("meta"):
            network = Autoencoder(config)
        self._network(folder, config.to_json(), network, first_stage_source(config), prefix)

    def _refuse_unused(self) -> None:
        """Whatever the checkpoint holds beyond what was taken and what is known to be of no use is named."""
        left = [key for key in self._state if key not in self._used and not key.startswith(self._ignored)]
        if left:
            raise ModelError(self._ckpt, f"holds weights that {self._config.name} has no place for: {listed(left)}")

    def _unet(self, config: UNetConfig, ema: bool) -> None:
        with torch.device("meta"):
            network = UNet(config)
        rename = None
        if ema:
            if not any(key.startswith("model_ema.") for key in self._state):
                raise ModelError(self._ckpt, "holds no averaged weights (model_ema); pass --no-ema to take the others")
            rename = _averaged
            self._used |= {key for key in self._state if key.startswith(UNET_PREFIX)}
        self._network("unet", config.to_json(), network, unet_source(config), UNET_PREFIX, rename)

    def _condition(self, part: ConditionPart) -> None:
        folder = self._out / part.folder
        if part.network is None or part.source is None:
            write_json(folder / "config.json", part.config)
            return
        self._network(part.folder, part.config, part.network, part.source, part.prefix, extra=part.extra)

    def _network(
        self, folder: str, config: Mapping[str, Any], network: nn.Module, source: Callable[[str], Source], prefix: str,
        rename: Callable[[str], str] | None = None, extra: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """One component: every parameter of `network`, found, checked and written."""
        self._progress(f"{folder}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")
        wanted = parameters(network)
        sources = {name: source(name) for name in wanted}
        keys = {name: (rename or str)(prefix + found.key) for name, found in sources.items()}
        missing = [key for key in keys.values() if key not in self._state]
        if missing:
            raise ModelError(self._ckpt, f"lacks what {self._config.name} asks for: {listed(missing)}")
        shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for name, ours in wanted.items():
            tensor = self._state[keys[name]]
            found = sources[name].of(torch.empty_like(tensor, device="meta"))
            if found.shape != ours.shape:
                raise ModelError(
                    self._ckpt, f"{keys[name]} has shape {tuple(tensor.shape)}; {self._config.name} asks for another"
                )
            if tensor.dtype not in DTYPES:
                raise ModelError(self._ckpt, f"{keys[name]} is {tensor.dtype}; float32, float16 and bfloat16 are taken")
            shapes[name] = tensor.dtype, tuple(found.shape)
        for name in extra:
            if (key := prefix + name) in self._state:
                keys[name], sources[name] = key, Source(name)
                shapes[name] = self._state[key].dtype, tuple(self._state[key].shape)
        self._used |= set(keys.values())

        def read(name: str) -> Tensor:
            return sources[name].of(self._state[keys[name]])

        def checked(name: str) -> Tensor:
            tensor = read(name)
            low, high = tensor.aminmax()  # one pass; not-a-number spreads
            if not (low.isfinite() and high.isfinite()):
                raise ModelError(self._ckpt, f"{keys[name]} is not finite")
            return tensor

        transformers = config.get("architectures") is not None and "_class_name" not in config
        file = self._out / folder / ("model.safetensors" if transformers else "diffusion_pytorch_model.safetensors")
        write_json(self._out / folder / "config.json", config)
        write_tensors(file, shapes, checked)
        if not holds(file, shapes, read):
            raise ModelError(file, "does not hold what was written to it; is the disk sound?")

    def _tokenizer(self, part: ConditionPart, given: Path | str | None) -> str:
        kind: TokenizerClass = CLIPTokenizer if part.folder == "text_encoder" else BertTokenizer
        beside = self._config.parent / str(part.tokenizer)
        name = str(given or (beside if beside.exists() else part.tokenizer))
        try:
            tokenizer = read_tokenizer(name, kind, int(part.config["vocab_size"]))
        except ModelError as error:
            raise ModelError(error.path, f"{error.detail}; pass --tokenizer DIR") from None
        if part.pad is not None:
            tokenizer.pad_token = part.pad
        tokenizer.save_pretrained(str(self._out / "tokenizer"))
        return kind.__name__


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
