"""The denoising U-Net εθ(z_t, t, τθ(y)) (paper section 3.3; diffusers' UNet2DConditionModel and UNet2DModel)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from ldm_core.networks.layers import (
    Downsample,
    GroupNormSiLU,
    ResnetBlock,
    SpatialAttention,
    SpatialTransformer,
    TimestepMLP,
    Upsample,
    timestep_embedding,
)
from ldm_core.networks.unet_config import UNetConfig

Attend = Callable[[], nn.Module] | None


class Level(nn.Module):
    """One resolution, on the way down or up: residual blocks, each followed by attention where the level attends."""

    def __init__(self, resnets: Iterable[nn.Module], attend: Attend) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = None if attend is None else nn.ModuleList(attend() for _ in self.resnets)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def block(
        self, index: int, x: Tensor, emb: Tensor, context: Tensor | None, *, skip: Tensor | None = None
    ) -> Tensor:
        x = self.resnets[index](x, emb, skip=skip)
        return x if self.attentions is None else self.attentions[index](x, context)


class MidBlock(nn.Module):
    def __init__(self, resnets: Iterable[nn.Module], attend: Attend) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList([] if attend is None else [attend()])

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        x = self.resnets[0](x, emb)
        for attention in self.attentions:
            x = attention(x, context)
        return self.resnets[1](x, emb)


class UNet(nn.Module):
    """Predicts ε (or v) from noisy latents, one timestep and one condition a row."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        last = len(widths) - 1

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], config.time_dim)
        classes = config.num_class_embeds
        self.class_embedding = nn.Embedding(classes, config.time_dim) if classes else None

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            ins = [skips[-1], *[width] * (config.layers(i) - 1)]
            level = Level([self._resnet(n, width) for n in ins], self._attend(config.down_attention(i), i))
            skips += [width] * config.layers(i)
            if i < last:
                resnet = config.down_resnet(i)
                down = self._resnet(width, width, "down") if resnet else Downsample(width, symmetric=True)
                level.downsamplers = nn.ModuleList([down])
                skips.append(width)
            self.down_blocks.append(level)

        middle = [self._resnet(widths[-1], widths[-1]) for _ in range(2)]
        self.mid_block = MidBlock(middle, self._attend(config.mid_attention, last, mid=True))

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for i, width in enumerate(reversed(widths)):
            ins = []
            for _ in range(config.layers(last - i) + 1):
                ins.append(below + skips.pop())
                below = width
            level = Level([self._resnet(n, width) for n in ins], self._attend(config.up_attention(i), last - i))
            if i < last:
                up = self._resnet(width, width, "up") if config.up_resnet(i) else Upsample(width)
                level.upsamplers = nn.ModuleList([up])
            self.up_blocks.append(level)

        self.conv_norm_out = GroupNormSiLU(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        """(B, in_channels, H, W), (B,), (B, L, cross_attention_dim), (B,) → (B, out_channels, H, W)."""
        emb = self._embed(t, class_labels, x.dtype)
        h = self.conv_in(x)
        skips = [h]
        for level in cast("Iterable[Level]", self.down_blocks):
            for i in range(len(level.resnets)):
                h = level.block(i, h, emb, context)
                skips.append(h)
            if level.downsamplers is not None:
                h = level.downsamplers[0](h, emb)
                skips.append(h)
        h = self.mid_block(h, emb, context)
        for level in cast("Iterable[Level]", self.up_blocks):
            for i in range(len(level.resnets)):
                h = level.block(i, h, emb, context, skip=skips.pop())
            if level.upsamplers is not None:
                # the skip's own size: latents need not be a multiple of the downsampling
                h = level.upsamplers[0](h, emb, tuple(skips[-1].shape[2:]))
        return self.conv_out(self.conv_norm_out(h))

    def _embed(self, t: Tensor, class_labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The embedding of timesteps and classes, (B, time_dim)."""
        config = self.config
        wave = timestep_embedding(
            t, config.block_out_channels[0], flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )
        emb: Tensor = self.time_embedding(wave.to(dtype))
        if self.class_embedding is not None:
            assert class_labels is not None
            emb = emb + self.class_embedding(class_labels)
        return emb

    def _resnet(self, ins: int, out: int, resize: str = "") -> ResnetBlock:
        c = self.config
        return ResnetBlock(
            ins, out, groups=c.norm_num_groups, eps=c.norm_eps, time_dim=c.time_dim, resize=resize,
            scale_shift=c.scale_shift,
        )  # fmt: skip

    def _attend(self, kind: str | None, level: int, *, mid: bool = False) -> Attend:
        """What makes the attention of one level: over the context too ("cross"), over the latents alone ("self")."""
        config = self.config
        channels, heads = config.block_out_channels[level], config.heads(kind, level)
        if kind == "self":
            groups = config.mid_attention_groups if mid else config.norm_num_groups
            return lambda: SpatialAttention(channels, heads, groups=groups, eps=config.norm_eps)
        if kind == "cross":
            assert config.cross_attention_dim is not None
            context_dim, only_cross = config.cross_attention_dim, config.only_cross(level) and not mid
            return lambda: SpatialTransformer(
                channels, context_dim, heads, config.transformer_layers_per_block,
                groups=config.norm_num_groups, linear=config.use_linear_projection, only_cross=only_cross,
            )  # fmt: skip
        return None
