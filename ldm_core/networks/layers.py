"""The building blocks that the U-Net and the autoencoder share. Parameter names are those of diffusers' state dicts.

Shape legend: B rows, C channels, H W latent height and width, N = H·W positions, L tokens, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int] | None  # (H, W) of what an enlarging layer has to give; None: twice what it gets


def timestep_embedding(t: Tensor, dim: int, *, flip_sin_to_cos: bool = True, freq_shift: float = 0.0) -> Tensor:
    """Sinusoidal embedding (B,) → (B, dim), in float32 (Ho et al. 2020, after Vaswani et al. 2017)."""
    half = dim // 2
    exponent = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - freq_shift)
    angle = t[:, None].float() * exponent.exp()[None]  # (B, half)
    pair = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    return torch.cat(pair, dim=-1)


class TimestepMLP(nn.Module):
    """The two linear layers that widen a timestep embedding: (B, in_dim) → (B, dim)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class GroupNormSiLU(nn.GroupNorm):
    """GroupNorm, then SiLU: what stands before a convolution. (B, C, H, W) → (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class ResnetBlock(nn.Module):
    """GroupNorm → SiLU → conv, twice, with the timestep added in between and a residual around it.

    `time_dim` None makes the autoencoder's kind, which knows no time. With `scale_shift` the timestep scales and shifts
    what the second norm gives (adaptive group normalisation, Dhariwal & Nichol 2021). `resize` makes the kind that
    halves ("down", by averaging) or enlarges ("up") on its way, as the paper's inpainting U-Net does instead of plain
    convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, eps: float, time_dim: int | None, resize: str = "",
        scale_shift: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.resize, self.scale_shift = resize, scale_shift
        self.norm1 = GroupNormSiLU(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        times = 2 * out_channels if scale_shift else out_channels
        self.time_emb_proj = None if time_dim is None else nn.Linear(time_dim, times)
        self.norm2 = (nn.GroupNorm if scale_shift else GroupNormSiLU)(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Size = None, *, skip: Tensor | None = None) -> Tensor:
        """(B, C, H, W), the timestep's embedding (B, time_dim) → (B, out_channels, H, W).

        `skip` is joined to x along channels, C being those of both.
        """
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        h = self.norm1(x)
        if self.resize:
            x, h = resized(x, self.resize, size), resized(h, self.resize, size)
        h = self.conv1(h)
        time = None if self.time_emb_proj is None or emb is None else self.time_emb_proj(F.silu(emb))[:, :, None, None]
        if time is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = F.silu(self.norm2(h) * (1 + scale) + shift)
        else:
            h = self.norm2(h + time)
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + self.conv2(h)


def resized(x: Tensor, direction: str, size: Size) -> Tensor:
    """Halves ("down") or enlarges ("up") a feature map."""
    return F.avg_pool2d(x, 2) if direction == "down" else enlarged(x, size)


def enlarged(x: Tensor, size: Size) -> Tensor:
    """By nearest neighbour, to `size` or to the double."""
    return F.interpolate(x, size=size, scale_factor=None if size is not None else 2.0, mode="nearest")


class Downsample(nn.Module):
    """Halves H and W. The first stage pads right and bottom only, the U-Net all around."""

    def __init__(self, channels: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor, emb: None = None, size: Size = None) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Enlarges to `size` (H, W), or doubles, by nearest neighbour, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: None = None, size: Size = None) -> Tensor:
        return self.conv(enlarged(x, size))


class Attention(nn.Module):
    """softmax(QKᵀ/√d)V, Q from `x`, K and V from `context` (paper section 3.3); self-attention without one."""

    def __init__(self, dim: int, context_dim: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context_dim, dim, bias=bias)
        self.to_v = nn.Linear(context_dim, dim, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, L, context_dim) → (B, N, D)."""
        context = x if context is None else context
        q, k, v = self._split(self.to_q(x)), self._split(self.to_k(context)), self._split(self.to_v(context))
        h = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](h.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:  # (B, N, D) → (B, heads, N, D / heads)
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SpatialAttention(Attention):
    """Self-attention over the positions of a feature map, with residual, and norm unless `groups` is None."""

    def __init__(self, channels: int, heads: int, *, groups: int | None, eps: float) -> None:
        super().__init__(channels, channels, heads, bias=True)
        self.group_norm = None if groups is None else nn.GroupNorm(groups, channels, eps=eps)

    def forward(self, x: Tensor, context: None = None) -> Tensor:  # type: ignore[override]  # (B, C, H, W)
        positions = x.flatten(2).transpose(1, 2)  # (B, N, C)
        normed = positions if self.group_norm is None else self.group_norm(x).flatten(2).transpose(1, 2)
        h = positions + super().forward(normed)
        return h.transpose(1, 2).unflatten(2, x.shape[2:])


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of its second half (Shazeer 2020): (..., D) → (..., hidden)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # the place between the two is diffusers' dropout, which has no parameters
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward layer, each with pre-norm and residual.

    With `only_cross` the first attention looks at the context too (Stable Diffusion's ×4 upscaler).
    """

    def __init__(self, dim: int, context_dim: int, heads: int, *, only_cross: bool) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, context_dim if only_cross else dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, context_dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # (B, N, D), (B, L, context_dim)
        x = x + self.attn1(self.norm1(x), context if self.only_cross else None)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Cross-attention over a feature map: norm → projection → transformer blocks → projection → residual."""

    def __init__(
        self, channels: int, context_dim: int, heads: int, depth: int, *, groups: int, linear: bool, only_cross: bool
    ) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, heads, only_cross=only_cross) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # (B, C, H, W), (B, L, context_dim)
        h = self.norm(x)
        h = self.proj_in(h.flatten(2).transpose(1, 2)) if self.linear else self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)  # (B, N, C)
        if self.linear:
            h = self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])
        else:
            h = self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))
        return x + h
