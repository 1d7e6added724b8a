"""The first stage: images to latents and back (paper section 3.1; diffusers' AutoencoderKL and VQModel)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ldm_core.errors import ModelError
from ldm_core.model_directory.config_reader import read_config
from ldm_core.networks.layers import Downsample, GroupNormSiLU, ResnetBlock, SpatialAttention, Upsample
from ldm_core.networks.unet_config import MAX_LEVELS, Blocks, Count, Names

EPS = 1e-6
DOWN, UP = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
KL, VQ = "AutoencoderKL", "VQModel"
# what each of the two classes names and the other does not, and what others of the family vary and ours do not
ONLY = {KL: ("use_quant_conv", "use_post_quant_conv"), VQ: ("num_vq_embeddings", "vq_embed_dim")}
FIXED = {
    "act_fn": ("silu",),
    "force_upcast": (True, False),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None,),
    "norm_type": ("group",),
    "lookup_from_codebook": (False,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """The fields of diffusers' `vae/config.json` or `vqvae/config.json` that this network honours.

    With `num_vq_embeddings` the latents are quantised (VQ), without it they are Gaussian (KL).
    """

    in_channels: Count = 3
    out_channels: Count = 3
    sample_size: Count | None = None
    latent_channels: Count = 4
    block_out_channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (128, 256, 512, 512)
    down_block_types: Names = ("DownEncoderBlock2D",) * 4
    up_block_types: Names = ("UpDecoderBlock2D",) * 4
    layers_per_block: Blocks = 2
    norm_num_groups: Count = 32
    scaling_factor: Annotated[float, Field(gt=0, le=1e6)] = 0.18215
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    num_vq_embeddings: Annotated[int, Field(ge=1, le=2**20)] | None = None
    vq_embed_dim: Count | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "vae/config.json") -> AutoencoderConfig:
        """Raises ModelError, naming the key, for what this network does not do."""
        defaults: dict[str, Any] = {"num_vq_embeddings": 256} if data.get("_class_name") == VQ else {}
        choices = {"down_block_types": DOWN, "up_block_types": UP}
        return read_config(cls, {**defaults, **data}, path, fixed=FIXED, choices=choices).checked(path)

    def checked(self, path: str) -> AutoencoderConfig:
        """This configuration, if its fields fit each other. Raises ModelError."""
        if (problem := next(self._problems(), None)) is not None:
            raise ModelError(path, problem)
        return self

    def _problems(self) -> Iterator[str]:
        widths = self.block_out_channels
        for key in ("down_block_types", "up_block_types"):
            if (entries := len(getattr(self, key))) != len(widths):
                yield f"{key} has {entries} entries, block_out_channels has {len(widths)}"
        if any(width % self.norm_num_groups for width in widths):
            yield f"block_out_channels = {widths} are not all multiples of norm_num_groups = {self.norm_num_groups}"
        if self.num_vq_embeddings is None and self.vq_embed_dim is not None:
            yield "vq_embed_dim is for a codebook, and num_vq_embeddings names none"

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads, for the diffusers class that it names."""
        kind, other = (KL, VQ) if self.num_vq_embeddings is None else (VQ, KL)
        return {"_class_name": kind, **{k: v for k, v in asdict(self).items() if k not in ONLY[other]}}

    @property
    def factor(self) -> int:
        """Downsampling f: pixels per latent, along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


class MidBlock(nn.Module):
    def __init__(self, channels: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([_attention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Level(nn.Module):
    """One resolution: residual blocks, each with attention where the level attends, then a change of size."""

    def __init__(self, ins: list[int], out: int, groups: int, *, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(i, out, groups) for i in ins)
        self.attentions = nn.ModuleList(_attention(out, groups) for _ in ins) if attends else None
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            x = resnet(x)
            if self.attentions is not None:
                x = self.attentions[i](x)
        for resize in self.downsamplers or self.upsamplers or ():
            x = resize(x)
        return x


def _resnet(ins: int, out: int, groups: int) -> ResnetBlock:
    return ResnetBlock(ins, out, groups=groups, eps=EPS, time_dim=None)


def _attention(channels: int, groups: int) -> SpatialAttention:
    return SpatialAttention(channels, heads=1, groups=groups, eps=EPS)


class Encoder(nn.Module):
    """(B, 3, f·H, f·W) → (B, latent_channels, H, W), twice as many channels for KL: mean and log-variance."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            ins = [widths[max(i - 1, 0)], *[width] * (config.layers_per_block - 1)]
            level = Level(ins, width, groups, attends=config.down_block_types[i] == DOWN[1])
            if i < len(widths) - 1:
                level.downsamplers = nn.ModuleList([Downsample(width, symmetric=False)])
            self.down_blocks.append(level)
        self.mid_block = MidBlock(widths[-1], groups, attention=config.mid_block_add_attention)
        self.conv_norm_out = GroupNormSiLU(groups, widths[-1], eps=EPS)
        moments = 2 if config.num_vq_embeddings is None else 1
        self.conv_out = nn.Conv2d(widths[-1], moments * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down_blocks:
            h = level(h)
        return self.conv_out(self.conv_norm_out(self.mid_block(h)))


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
            level = Level(ins, width, groups, attends=config.up_block_types[i] == UP[1])
            if i < len(widths) - 1:
                level.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(level)
        self.conv_norm_out = GroupNormSiLU(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            h = level(h)
        return self.conv_out(self.conv_norm_out(h))


class Codebook(nn.Module):
    """The learned latents to which a VQ first stage rounds (van den Oord et al. 2017)."""

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, dim)

    def distances(self, z: Tensor) -> Tensor:
        """Squared distance to every entry less |z|², which changes no order: (B, C, H, W) → (B, H, W, entries)."""
        entries = self.embedding.weight.float()  # in half precision, one in fifteen finds another entry
        return (entries**2).sum(1) - 2 * z.float().permute(0, 2, 3, 1) @ entries.T

    def indices(self, z: Tensor) -> Tensor:
        """The nearest entry of each latent: (B, C, H, W) → (B, H, W) int64."""
        return self.distances(z).argmin(-1)

    def forward(self, z: Tensor) -> Tensor:
        return self.embedding(self.indices(z)).permute(0, 3, 1, 2)


class Autoencoder(nn.Module):
    """An autoencoder whose latents a light KL penalty keeps near a Gaussian, or which are rounded to a codebook.

    `moments` and `decode` work in the diffusion model's space: latents are multiplied by `scaling_factor`, so that
    their variance is about one (paper appendix G). A VQ model's latents are quantised when decoded, not when encoded:
    the diffusion model works on the continuous ones (paper section 3.1).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, entries = config.latent_channels, config.num_vq_embeddings
        inner = channels if entries is None else config.vq_embed_dim or channels
        moments = 2 if entries is None else 1
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = None if entries is None else Codebook(entries, inner)
        self.quant_conv = nn.Conv2d(moments * channels, moments * inner, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(inner, channels, 1) if config.use_post_quant_conv else None

    def encode(self, image: Tensor) -> Tensor:
        """What the encoder says of images in [-1, 1], unscaled: KL's mean and log-variance, VQ's latents."""
        h = self.encoder(image)
        return h if self.quant_conv is None else self.quant_conv(h)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unscaled mean and log-variance: (B, 3, f·H, f·W) in [-1, 1] → 2 x (B, C, H, W); VQ has no variance."""
        h = self.encode(image)
        if self.quantize is not None:
            return h, None
        mean, logvar = h.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled mean and standard deviation of an image's latents; the deviation is zero for VQ."""
        mean, logvar = self.posterior(image)
        std = torch.zeros_like(mean) if logvar is None else torch.exp(0.5 * logvar)
        return mean * self.config.scaling_factor, std * self.config.scaling_factor

    def decode(self, latents: Tensor, *, quantize: bool = True) -> Tensor:
        """Scaled latents (B, C, H, W) → images (B, 3, f·H, f·W), about in [-1, 1]."""
        z = latents / self.config.scaling_factor
        if self.quantize is not None and quantize:
            z = self.quantize(z)
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
