"""The denoising U-Net εθ(z_t, t, τθ(y)) with cross-attention (paper section 3.3; diffusers' UNet2DConditionModel)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.component import read_config
from ldm_core.layers import Downsample, ResnetBlock, SpatialTransformer, TimestepMLP, Upsample, timestep_embedding

ATTENTION = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}

# what other U-Nets of the family vary and this one has in one way only
FIXED = {
    "center_input_sample": (False,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1, 1.0),
    "dropout": (0.0, 0),
    "act_fn": ("silu",),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "upcast_attention": (False, None),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1, 1.0),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "projection_class_embeddings_input_dim": (None,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "addition_embed_type_num_heads": (64,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The fields of diffusers' `unet/config.json` that this network honours.

    `attention_head_dim` is, as in diffusers, the *number* of heads, whatever its name says.
    """

    in_channels: int = 4
    out_channels: int = 4
    sample_size: int | None = None
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    layers_per_block: int = 2
    transformer_layers_per_block: int = 1
    attention_head_dim: int | tuple[int, ...] = 8
    only_cross_attention: bool | tuple[bool, ...] = False
    cross_attention_dim: int = 1280
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    use_linear_projection: bool = False
    num_class_embeds: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "unet/config.json") -> UNetConfig:
        """Raises ModelError, naming the key, for what this network does not do."""
        choices = dict.fromkeys(("down_block_types", "up_block_types"), tuple(ATTENTION))
        return read_config(cls, data, path, fixed=FIXED, choices=choices)

    def per_level(self, name: str) -> list[Any]:
        value = getattr(self, name)
        return list(value) if isinstance(value, tuple) else [value] * len(self.block_out_channels)


class Level(nn.Module):
    """One resolution, on the way down or up: residual blocks, each with a transformer where the level attends."""

    def __init__(
        self, config: UNetConfig, ins: list[int], out: int, *, heads: int | None, only_cross: bool, time_dim: int
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(i, out, groups=config.norm_num_groups, eps=config.norm_eps, time_dim=time_dim) for i in ins
        )
        self.attentions = None
        if heads is not None:
            self.attentions = nn.ModuleList(_transformer(config, out, heads, only_cross) for _ in ins)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def block(self, index: int, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[index](x, emb)
        return x if self.attentions is None else self.attentions[index](x, context)


class MidBlock(nn.Module):
    def __init__(self, config: UNetConfig, channels: int, heads: int, time_dim: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, groups=config.norm_num_groups, eps=config.norm_eps, time_dim=time_dim)
            for _ in range(2)
        )
        self.attentions = nn.ModuleList([_transformer(config, channels, heads, False)])

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, emb), context)
        return self.resnets[1](x, emb)


def _transformer(config: UNetConfig, channels: int, heads: int, only_cross: bool) -> SpatialTransformer:
    return SpatialTransformer(
        channels,
        config.cross_attention_dim,
        heads,
        config.transformer_layers_per_block,
        groups=config.norm_num_groups,
        linear=config.use_linear_projection,
        only_cross=only_cross,
    )


class UNet(nn.Module):
    """Predicts ε (or v) from noisy latents, one timestep and one condition a row."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        time_dim = 4 * widths[0]
        heads = config.per_level("attention_head_dim")
        cross = config.per_level("only_cross_attention")
        last = len(widths) - 1

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], time_dim)
        self.class_embedding = nn.Embedding(config.num_class_embeds, time_dim) if config.num_class_embeds else None

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            attends = heads[i] if ATTENTION[config.down_block_types[i]] else None
            ins = [skips[-1], *[width] * (config.layers_per_block - 1)]
            level = Level(config, ins, width, heads=attends, only_cross=cross[i], time_dim=time_dim)
            skips += [width] * config.layers_per_block
            if i < last:
                level.downsamplers = nn.ModuleList([Downsample(width, symmetric=True)])
                skips.append(width)
            self.down_blocks.append(level)

        self.mid_block = MidBlock(config, widths[-1], heads[-1], time_dim)

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for i, width in enumerate(reversed(widths)):
            attends = heads[last - i] if ATTENTION[config.up_block_types[i]] else None
            ins = []
            for _ in range(config.layers_per_block + 1):
                ins.append(below + skips.pop())
                below = width
            level = Level(config, ins, width, heads=attends, only_cross=cross[last - i], time_dim=time_dim)
            if i < last:
                level.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(level)

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W), (B,), (B, L, cross_attention_dim), (B,) → (B, out_channels, H, W)."""
        emb = self._embed(t, class_labels, x.dtype)
        h = self.conv_in(x)
        skips = [h]
        for level in cast("Iterable[Level]", self.down_blocks):
            for i in range(len(level.resnets)):
                h = level.block(i, h, emb, context)
                skips.append(h)
            if level.downsamplers is not None:
                h = level.downsamplers[0](h)
                skips.append(h)
        h = self.mid_block(h, emb, context)
        for level in cast("Iterable[Level]", self.up_blocks):
            for i in range(len(level.resnets)):
                h = level.block(i, torch.cat([h, skips.pop()], dim=1), emb, context)
            if level.upsamplers is not None:
                # the skip's own size: latents need not be a multiple of the downsampling
                h = level.upsamplers[0](h, size=tuple(skips[-1].shape[2:]))
        return self.conv_out(F.silu(self.conv_norm_out(h)))

    def _embed(self, t: Tensor, class_labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        config = self.config
        wave = timestep_embedding(
            t, config.block_out_channels[0], flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )
        emb: Tensor = self.time_embedding(wave.to(dtype))
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(class_labels)
        return emb
