"""The first stage: pictures to latents and back (paper section 3.1; diffusers' AutoencoderKL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.component import read_config
from ldm_core.layers import Attention, Downsample, ResnetBlock, Upsample

EPS = 1e-6
FIXED = {
    "act_fn": ("silu",),
    "force_upcast": (True, False),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """The fields of diffusers' `vae/config.json` that this network honours."""

    in_channels: int = 3
    out_channels: int = 3
    sample_size: int | None = None
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "vae/config.json") -> AutoencoderConfig:
        """Raises ModelError, naming the key, for what this network does not do."""
        choices = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
        return read_config(cls, data, path, fixed=FIXED, choices=choices)

    @property
    def factor(self) -> int:
        """Downsampling f: pixels per latent, along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


class SpatialAttention(nn.Module):
    """Single-head self-attention over a feature map, with residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        attention = Attention(channels, channels, heads=1, bias=True)
        self.to_q, self.to_k, self.to_v, self.to_out = attention.to_q, attention.to_k, attention.to_v, attention.to_out

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.to_out[0](h).transpose(1, 2).unflatten(2, x.shape[2:])


class MidBlock(nn.Module):
    def __init__(self, channels: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Level(nn.Module):
    """One resolution: residual blocks, then a change of size where there is one."""

    def __init__(self, ins: list[int], out: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(i, out, groups) for i in ins)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for resize in self.downsamplers or self.upsamplers or ():
            x = resize(x)
        return x


def _resnet(ins: int, out: int, groups: int) -> ResnetBlock:
    return ResnetBlock(ins, out, groups=groups, eps=EPS, time_dim=None)


class Encoder(nn.Module):
    """(B, 3, f·H, f·W) → (B, 2·latent_channels, H, W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            ins = [widths[max(i - 1, 0)], *[width] * (config.layers_per_block - 1)]
            level = Level(ins, width, groups)
            if i < len(widths) - 1:
                level.downsamplers = nn.ModuleList([Downsample(width, symmetric=False)])
            self.down_blocks.append(level)
        self.mid_block = MidBlock(widths[-1], groups, attention=config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down_blocks:
            h = level(h)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))


class Decoder(nn.Module):
    """(B, latent_channels, H, W) → (B, 3, f·H, f·W)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, attention=config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            ins = [widths[max(i - 1, 0)], *[width] * config.layers_per_block]
            level = Level(ins, width, groups)
            if i < len(widths) - 1:
                level.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(level)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            h = level(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class AutoencoderKL(nn.Module):
    """The autoencoder with a light KL penalty on its latents.

    `encode` and `decode` work in the diffusion model's space: latents are multiplied by `scaling_factor`, so that
    their variance is about one (paper appendix G).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else None

    def moments(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log-variance, unscaled: (B, 3, f·H, f·W) in [-1, 1] → 2 × (B, C, H, W)."""
        h = self.encoder(picture)
        h = h if self.quant_conv is None else self.quant_conv(h)
        mean, logvar = h.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, picture: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents of a picture in [-1, 1]: a sample of the posterior with `noise`, its mode without."""
        mean, logvar = self.moments(picture)
        z = mean if noise is None else mean + torch.exp(0.5 * logvar) * noise
        return z * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, H, W) → pictures (B, 3, f·H, f·W), about in [-1, 1]."""
        z = latents / self.config.scaling_factor
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
