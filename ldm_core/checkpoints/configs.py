"""The research repositories' yaml, read as data: known targets become configurations, others are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm_core.checkpoints.reader import DDPM, Reader, params_of
from ldm_core.errors import ModelError
from ldm_core.networks.autoencoder import AutoencoderConfig
from ldm_core.networks.unet_config import UNetConfig

UPSCALER = f"{DDPM}LatentUpscaleDiffusion"
DIFFUSION = (f"{DDPM}LatentDiffusion", f"{DDPM}LatentInpaintDiffusion", UPSCALER)
KL = ("ldm.models.autoencoder.AutoencoderKL",)
VQ = ("ldm.models.autoencoder.VQModelInterface", "ldm.models.autoencoder.VQModel")
UNET = ("ldm.modules.diffusionmodules.openaimodel.UNetModel",)
NOISED = ("ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation",)
ATTENTION = ("vanilla", "vanilla-xformers", "none")  # the second is the first, computed in another way
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def unet_config(path: Path, node: Any, *, upscaler: bool = False) -> UNetConfig:
    """An openaimodel.UNetModel; that of an upscaler is told the noise level of the small image, as a class."""
    read = params_of(path, "unet_config", node, UNET)
    read.only("dims", 2)
    read.only("conv_resample", True)
    read.only("use_new_attention_order", False)
    read.only("n_embed", None)
    read.only("num_attention_blocks", None)
    read.only("adm_in_channels", None)
    read.only("disable_middle_self_attn", False)
    read.skip("use_checkpoint", "use_fp16", "use_bf16", "dropout", "legacy", "spatial_transformer_attn_type")
    widths = _widths(read, "model_channels", "channel_mult", [1, 2, 4, 8])
    resolutions = read.wholes("attention_resolutions", fewest=0)
    attends = [2**level in resolutions for level in range(len(widths))]
    cross, resnets = read.flag("use_spatial_transformer", False), read.flag("resblock_updown", False)
    scale_shift = read.flag("use_scale_shift_norm", False)
    if cross and resnets:
        raise ModelError(path, "unet_config: resblock_updown together with use_spatial_transformer is not supported")
    config = UNetConfig(
        in_channels=read.whole("in_channels"),
        out_channels=read.whole("out_channels"),
        sample_size=read.whole("image_size"),
        block_out_channels=widths,
        down_block_types=tuple(_block("Down", cross, a, resnets) for a in attends),
        mid_block_type="UNetMidBlock2DCrossAttn" if cross else "UNetMidBlock2D",
        up_block_types=tuple(_block("Up", cross, a, resnets) for a in attends[::-1]),
        layers_per_block=_blocks(read),
        downsample_type="resnet" if resnets else "conv",
        upsample_type="resnet" if resnets else "conv",
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        # where diffusers' class would do without a norm
        attn_norm_num_groups=32 if scale_shift and not cross else None,
        transformer_layers_per_block=read.whole("transformer_depth", 1, most=64),
        attention_head_dim=_heads(read, widths, attends, cross),
        only_cross_attention=_only_cross(read, len(widths)),
        cross_attention_dim=read.whole("context_dim") if cross else None,
        use_linear_projection=read.flag("use_linear_in_transformer", False),
        num_class_embeds=_classes(read, upscaler),
    )
    read.end()
    return config.checked(f"{path}: unet_config")


def _widths(read: Reader, base: str, factors: str, default: list[int] | None = None) -> tuple[int, ...]:
    """The channels of every level."""
    width = read.whole(base)
    return tuple(width * factor for factor in read.wholes(factors, default))


def _blocks(read: Reader) -> int | tuple[int, ...]:
    """Residual blocks of every level, one number for all of them or one for each."""
    value = read.take("num_res_blocks")
    again = Reader(read.path, read.place, {"num_res_blocks": value})
    return tuple(again.wholes("num_res_blocks")) if isinstance(value, list) else again.whole("num_res_blocks", most=64)


def _heads(read: Reader, widths: tuple[int, ...], attends: list[bool], cross: bool) -> int | tuple[int, ...]:
    """What diffusers means by `attention_head_dim`: the number of heads over a context, else the width of one."""
    heads, head_width = (read.whole(key, -1, least=-1) for key in ("num_heads", "num_head_channels"))
    upwards = read.whole("num_heads_upsample", -1, least=-1)
    if upwards not in {-1, heads}:
        raise read.unsupported("num_heads_upsample", upwards)
    given = heads if head_width == -1 else head_width
    if given == -1:
        raise ModelError(read.path, "unet_config names neither num_heads nor num_head_channels")
    for width, attend in zip(widths, [*attends[:-1], True], strict=True):
        if given == 0 or (attend and width % given):
            key = "num_heads" if head_width == -1 else "num_head_channels"
            raise ModelError(read.path, f"unet_config.{key} = {given} does not divide a level's {width} channels")
    counted = head_width == -1
    return given if counted == cross else _plain([max(1, width // given) for width in widths])


def _only_cross(read: Reader, levels: int) -> bool | tuple[bool, ...]:
    """Of each level, whether its transformers do without self-attention."""
    values = read.take("disable_self_attentions", False)
    if values is False:
        return False
    if not isinstance(values, list) or len(values) != levels or any(type(value) is not bool for value in values):
        raise read.unsupported("disable_self_attentions", values)
    return tuple(values)


def _classes(read: Reader, upscaler: bool) -> int | None:
    if upscaler:
        return read.whole("num_classes")
    read.only("num_classes", None)
    return None


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
    embed_dim = read.whole("embed_dim")
    entries = read.whole("n_embed", most=2**20) if quantised else None
    read.only("remap", None)
    read.only("sane_index_shape", False)
    read.skip("monitor", "lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "use_ema",
              "batch_resize_range", "scheduler_config", "lr_g_factor")  # fmt: skip
    inner = Reader(path, "first_stage_config.ddconfig", read.take("ddconfig"))
    read.end()
    widths, resolution = _widths(inner, "ch", "ch_mult"), inner.whole("resolution")
    attends_at = inner.wholes("attn_resolutions", fewest=0)
    attention = inner.take("attn_type", "vanilla")
    if attention not in ATTENTION:
        raise inner.unsupported("attn_type", attention)
    attends = [resolution // 2**level in attends_at and attention != "none" for level in range(len(widths))]
    inner.only("double_z", *([True] if entries is None else [False]))
    inner.only("resamp_with_conv", True)
    inner.only("tanh_out", False)
    inner.only("give_pre_end", False)
    inner.only("use_linear_attn", False)
    inner.skip("dropout")
    config = AutoencoderConfig(
        in_channels=inner.whole("in_channels"),
        out_channels=inner.whole("out_ch"),
        sample_size=resolution,
        latent_channels=inner.whole("z_channels"),
        block_out_channels=widths,
        down_block_types=tuple("AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends),
        up_block_types=tuple("AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in attends[::-1]),
        layers_per_block=inner.whole("num_res_blocks", most=64),
        scaling_factor=scaling_factor,
        mid_block_add_attention=attention != "none",
        num_vq_embeddings=entries,
        vq_embed_dim=embed_dim if quantised else None,
    )
    inner.end()
    if not quantised and embed_dim != config.latent_channels:
        raise ModelError(path, f"first_stage_config.embed_dim = {embed_dim} differs from its z_channels")
    return config.checked(f"{path}: first_stage_config")


def scheduler_config(read: Reader) -> dict[str, Any]:
    """The noise schedule as diffusers' DDIMScheduler; the research code's runs end at ᾱ of the first timestep."""
    read.only("given_betas", None)
    read.only("v_posterior", 0.0)
    prediction = read.take("parameterization", "eps")
    if not isinstance(prediction, str) or prediction not in PREDICTIONS:
        raise read.unsupported("parameterization", prediction)
    return {
        "_class_name": "DDIMScheduler",
        **_betas(read),
        "prediction_type": PREDICTIONS[prediction],
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }


def low_scale_config(path: Path, read: Reader) -> tuple[dict[str, Any], int]:
    """How an upscaler noises the small image, as diffusers' DDPMScheduler, and the most noise of its training."""
    read.only("noise_level_key", None)
    read.skip("low_scale_key")
    low = params_of(path, "low_scale_config", read.take("low_scale_config"), NOISED)
    low.skip("to_cuda")
    schedule = Reader(path, "low_scale_config.noise_schedule_config", low.take("noise_schedule_config"))
    config = {"_class_name": "DDPMScheduler", **_betas(schedule), "clip_sample": True}
    schedule.end()
    most = low.whole("max_noise_level", config["num_train_timesteps"], most=config["num_train_timesteps"])
    low.end()
    return config, most


def _betas(read: Reader) -> dict[str, Any]:
    """The research code's "linear" is linear in the square root of β."""
    kind = read.take("beta_schedule", "linear")
    if kind != "linear":
        raise read.unsupported("beta_schedule", kind)
    return {
        "beta_schedule": "scaled_linear",
        "beta_start": read.number("linear_start", 1e-4, most=1.0),
        "beta_end": read.number("linear_end", 2e-2, most=1.0),
        "num_train_timesteps": read.whole("timesteps", 1000),
    }
