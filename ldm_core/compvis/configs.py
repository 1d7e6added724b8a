"""The research repositories' yaml, read as data: known targets become configurations, others are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ldm_core.autoencoder import AutoencoderConfig
from ldm_core.errors import ModelError
from ldm_core.unet_config import UNetConfig

Yaml = Mapping[str, Any]

DIFFUSION = ("ldm.models.diffusion.ddpm.LatentDiffusion", "ldm.models.diffusion.ddpm.LatentInpaintDiffusion")
KL = ("ldm.models.autoencoder.AutoencoderKL",)
VQ = ("ldm.models.autoencoder.VQModelInterface", "ldm.models.autoencoder.VQModel")
UNET = ("ldm.modules.diffusionmodules.openaimodel.UNetModel",)
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def read_yaml(path: Path) -> Yaml:
    """The `model` of a configuration: its target and parameters. Raises ModelError."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(path, f"cannot be read: {str(error).splitlines()[0]}") from None
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or "target" not in model:
        raise ModelError(path, "has no model with a target")
    return model


class Reader:
    """Takes keys out of one mapping of the yaml; what is left at the end is unknown and refused."""

    def __init__(self, path: Path, place: str, data: Yaml) -> None:
        if not isinstance(data, Mapping):
            raise ModelError(path, f"{place} is no mapping")
        self._path, self._place, self._left = path, place, dict(data)

    def take(self, key: str, default: Any = None) -> Any:
        """A key's value; without a default, a key that is missing is refused."""
        if key not in self._left and default is None:
            raise ModelError(self._path, f"{self._place}.{key} is missing")
        return self._left.pop(key, default)

    def optional(self, key: str) -> Any:
        return self._left.pop(key, None)

    def skip(self, *keys: str) -> None:
        """Keys that matter to training alone."""
        for key in keys:
            self._left.pop(key, None)

    def only(self, key: str, *allowed: Any) -> None:
        """A key that may be absent or have one of these values."""
        value = self._left.pop(key, allowed[0])
        if value not in allowed:
            raise self.unsupported(key, value)

    def unsupported(self, key: str, value: Any) -> ModelError:
        return ModelError(self._path, f"{self._place}.{key} = {value!r} is not supported")

    def end(self) -> None:
        if self._left:
            raise ModelError(self._path, f"{self._place} has unknown keys: {', '.join(sorted(self._left))}")


def params_of(path: Path, place: str, node: Any, targets: tuple[str, ...]) -> Reader:
    """The parameters of a node whose target is one of `targets`. Raises ModelError for another one."""
    target = node.get("target") if isinstance(node, dict) else node
    if target not in targets:
        raise ModelError(path, f"{place}.target = {target!r} is not supported")
    return Reader(path, place, node.get("params") or {})


def unet_config(path: Path, node: Any) -> UNetConfig:
    """An openaimodel.UNetModel."""
    read = params_of(path, "unet_config", node, UNET)
    read.only("dims", 2)
    read.only("conv_resample", True)
    read.only("use_new_attention_order", False)
    read.only("num_heads_upsample", -1)
    read.only("n_embed", None)
    read.only("num_classes", None)
    read.skip("use_checkpoint", "use_fp16", "dropout", "legacy")
    base = read.take("model_channels")
    widths = tuple(base * mult for mult in read.take("channel_mult", [1, 2, 4, 8]))
    resolutions = read.take("attention_resolutions")
    attends = [2**level in resolutions for level in range(len(widths))]
    cross, resnets = read.take("use_spatial_transformer", False), read.take("resblock_updown", False)
    scale_shift = read.take("use_scale_shift_norm", False)
    heads, head_width = read.take("num_heads", -1), read.take("num_head_channels", -1)
    if heads == -1 and head_width == -1:
        raise ModelError(path, "unet_config names neither num_heads nor num_head_channels")
    per_level = [width // head_width if head_width != -1 else heads for width in widths]
    config = UNetConfig(
        in_channels=read.take("in_channels"),
        out_channels=read.take("out_channels"),
        sample_size=read.take("image_size"),
        block_out_channels=widths,
        down_block_types=tuple(_block("Down", cross, a, resnets) for a in attends),
        mid_block_type="UNetMidBlock2DCrossAttn" if cross else "UNetMidBlock2D",
        up_block_types=tuple(_block("Up", cross, a, resnets) for a in attends[::-1]),
        layers_per_block=read.take("num_res_blocks"),
        downsample_type="resnet" if resnets else "conv",
        upsample_type="resnet" if resnets else "conv",
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        # where diffusers' class would do without a norm
        attn_norm_num_groups=32 if scale_shift and not cross else None,
        transformer_layers_per_block=read.take("transformer_depth", 1),
        attention_head_dim=_plain(per_level if cross else [w // h for w, h in zip(widths, per_level, strict=True)]),
        cross_attention_dim=read.take("context_dim") if cross else None,
        use_linear_projection=read.take("use_linear_in_transformer", False),
    )
    if cross and resnets:
        raise ModelError(path, "unet_config: resblock_updown together with use_spatial_transformer is not supported")
    read.end()
    return config


def _block(way: str, cross: bool, attends: bool, resnets: bool) -> str:
    if attends:
        return f"CrossAttn{way}Block2D" if cross else f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if resnets else f"{way}Block2D"


def _plain(values: list[int]) -> int | tuple[int, ...]:
    """One number where all levels have the same."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def autoencoder_config(path: Path, node: Any, scaling_factor: float) -> AutoencoderConfig:
    """An AutoencoderKL, VQModel or VQModelInterface."""
    quantised = isinstance(node, dict) and node.get("target") in VQ
    read = params_of(path, "first_stage_config", node, (*KL, *VQ))
    embed_dim = read.take("embed_dim")
    entries = read.take("n_embed") if quantised else None
    read.only("remap", None)
    read.only("sane_index_shape", False)
    read.skip("monitor", "lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "use_ema",
              "batch_resize_range", "scheduler_config", "lr_g_factor")  # fmt: skip
    inner = Reader(path, "first_stage_config.ddconfig", read.take("ddconfig"))
    read.end()
    base, resolution, attends_at = inner.take("ch"), inner.take("resolution"), inner.take("attn_resolutions")
    widths = tuple(base * mult for mult in inner.take("ch_mult"))
    attends = [resolution // 2**level in attends_at for level in range(len(widths))]
    attention = inner.take("attn_type", "vanilla")
    if attention not in {"vanilla", "none"}:
        raise inner.unsupported("attn_type", attention)
    attends = [a and attention != "none" for a in attends]
    inner.only("double_z", *([True] if entries is None else [False]))
    inner.only("resamp_with_conv", True)
    inner.only("tanh_out", False)
    inner.only("give_pre_end", False)
    inner.skip("dropout")
    config = AutoencoderConfig(
        in_channels=inner.take("in_channels"),
        out_channels=inner.take("out_ch"),
        sample_size=resolution,
        latent_channels=inner.take("z_channels"),
        block_out_channels=widths,
        down_block_types=tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends),
        up_block_types=tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in attends[::-1]),
        layers_per_block=inner.take("num_res_blocks"),
        scaling_factor=scaling_factor,
        mid_block_add_attention=attention != "none",
        num_vq_embeddings=entries,
        vq_embed_dim=embed_dim if quantised else None,
    )
    inner.end()
    if not quantised and embed_dim != config.latent_channels:
        raise ModelError(path, f"first_stage_config.embed_dim = {embed_dim} differs from its z_channels")
    return config


def scheduler_config(path: Path, read: Reader) -> dict[str, Any]:
    """The noise schedule as diffusers' DDIMScheduler; the research code's runs end at ᾱ of the first timestep."""
    read.only("given_betas", None)
    read.only("v_posterior", 0.0)
    kind = read.take("beta_schedule", "linear")
    if kind != "linear":
        raise read.unsupported("beta_schedule", kind)
    prediction = read.take("parameterization", "eps")
    if prediction not in PREDICTIONS:
        raise read.unsupported("parameterization", prediction)
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": read.take("linear_start", 1e-4),
        "beta_end": read.take("linear_end", 2e-2),
        "num_train_timesteps": read.take("timesteps", 1000),
        "prediction_type": PREDICTIONS[prediction],
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }
