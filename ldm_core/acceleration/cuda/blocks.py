"""The blocks of networks/layers.py on CUDA: the same sums with fewer passes over memory, in channels-last memory.

Biases and residuals move to where a kernel or a product reads the tensor anyway:

- cuBLAS adds a product to its residual in place (AddedProduct), but no bias as well. So the tokens inside a transformer
  lack the biases of the layers behind them; each LayerNorm adds the sum of those that are missing, `missing`.
- The first convolution's bias is part of the timestep's projection, which the second norm adds.
- A residual block adds its biases and its residual in one pass, and the next attention's last bias with them.
- The bias of a convolution that enlarges is added by the first norm behind it, and to the biases of that block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration.cuda import operators
from ldm_core.acceleration.cuda.modules import (
    AddedProduct,
    AttentionCore,
    GroupNorm,
    LayerNorm,
    bias_of,
    linear,
    matrix,
    tokens,
    without_bias,
)
from ldm_core.networks import layers as plain
from ldm_core.networks.layers import Size, resized


class ResnetBlock(nn.Module):
    """networks.layers.ResnetBlock; of its input's channels the last `skip_channels` come apart, as `skip`."""

    def __init__(self, block: plain.ResnetBlock, skip_channels: int = 0) -> None:
        super().__init__()
        self.resize, self.scale_shift = block.resize, block.scale_shift
        self.norm1, self.norm2 = GroupNorm(block.norm1), GroupNorm(block.norm2)
        self.bias1: Tensor  # (1, C), of the first convolution
        self.bias2: Tensor  # (C,), the sum of all that are added last
        self.missing: Tensor | None  # (1, C): what its input lacks
        self.register_buffer("missing", None, persistent=False)
        self.register_buffer("bias1", bias_of(block.conv1)[None], persistent=False)
        self.register_buffer("bias2", bias_of(block.conv2), persistent=False)
        self.time_emb_proj = self._projection(block.time_emb_proj)
        self.conv1, self.conv2 = without_bias(block.conv1), without_bias(block.conv2)
        self._split_shortcut(block.conv_shortcut, skip_channels)

    def _projection(self, time: nn.Linear | None) -> nn.Linear | None:
        if time is None or self.scale_shift:
            return time
        return linear(time.weight, (bias_of(time) + self.bias1[0]).to(time.weight.dtype))

    def _split_shortcut(self, convolution: nn.Conv2d | None, skip_channels: int) -> None:
        self.shortcut: AddedProduct | None = None
        self.skip_shortcut: AddedProduct | None = None
        if convolution is None:
            return
        self.bias2 += bias_of(convolution)
        weight, own = matrix(convolution), convolution.in_channels - skip_channels
        self.shortcut = AddedProduct(weight[:, :own].contiguous())
        if skip_channels:
            self.skip_shortcut = AddedProduct(weight[:, own:].contiguous())

    def expect_missing(self, bias: Tensor) -> None:
        """Makes the block take x without a bias, (channels of x,) in float32, that x should have."""
        norm, shortcut = self.norm1.weight, self.shortcut
        self.missing = F.pad(bias, (0, len(norm) - len(bias)))[None]
        self.bias2 += self.missing[0] if shortcut is None else shortcut.weight.float() @ bias

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Size = None, *, skip: Tensor | None = None) -> Tensor:
        """(B, C, H, W), the timestep's embedding (B, time_dim) → a new channels-last tensor (B, out_channels, H, W)."""
        h = self.norm1(x, skip=skip, add=self.missing)
        if self.resize:
            x, h = resized(x, self.resize, size), resized(h, self.resize, size)
        h = self.conv2(self._norm2(self.conv1(h), emb))
        if self.shortcut is None:
            return operators.add_bias(h, self.bias2, x if skip is None else torch.cat([x, skip], dim=1))
        total = self.shortcut(tokens(_channels_last(h)), tokens(_channels_last(x)))
        if skip is not None:
            assert self.skip_shortcut is not None
            total = self.skip_shortcut(total, tokens(_channels_last(skip)))
        return operators.add_bias(_image(total, h), self.bias2)

    def _norm2(self, h: Tensor, emb: Tensor | None) -> Tensor:
        if self.time_emb_proj is None or emb is None:
            return self.norm2(h, add=self.bias1)
        time = self.time_emb_proj(F.silu(emb))
        return self.norm2(h, add=self.bias1, scale_shift=time) if self.scale_shift else self.norm2(h, add=time)


class SelfAttention(nn.Module):
    """Attention whose Q, K and V are one product. Adds its result without its last bias to `total`, in place."""

    def __init__(self, attention: plain.Attention) -> None:
        super().__init__()
        projections = attention.to_q, attention.to_k, attention.to_v
        self.heads = attention.heads
        self.to_qkv = _joined(*projections)
        self.core = AttentionCore()
        self.to_out = AddedProduct(_last(attention).weight)

    def forward(self, total: Tensor, x: Tensor) -> Tensor:
        """(B, N, D), (B, N, D) → `total`."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.to_out(total, self.core(q, k, v))


class CrossAttention(nn.Module):
    """Attention to a context, whose K and V are one product. Adds its result without its last bias to `total`."""

    def __init__(self, attention: plain.Attention) -> None:
        super().__init__()
        self.heads, self.to_q = attention.heads, attention.to_q
        self.to_kv = _joined(attention.to_k, attention.to_v)
        self.core = AttentionCore()
        self.to_out = AddedProduct(_last(attention).weight)

    def forward(self, total: Tensor, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, D), (B, N, D), (B, L, context_dim) → `total`."""
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.to_out(total, self.core(self.to_q(x).unflatten(-1, (self.heads, -1)), k, v))


class TransformerBlock(nn.Module):
    """networks.layers.TransformerBlock over tokens that lack `missing`, (D,) in float32; in place.

    What it leaves lacks `self.missing`.
    """

    def __init__(self, block: plain.TransformerBlock, missing: Tensor) -> None:
        super().__init__()
        self.only_cross = block.only_cross
        self.norm1 = LayerNorm(block.norm1, missing)
        self.attn1: nn.Module = CrossAttention(block.attn1) if block.only_cross else SelfAttention(block.attn1)
        missing = missing + bias_of(_last(block.attn1))
        self.norm2, self.attn2 = LayerNorm(block.norm2, missing), CrossAttention(block.attn2)
        missing = missing + bias_of(_last(block.attn2))
        self.norm3 = LayerNorm(block.norm3, missing)
        gated, last = cast("plain.GEGLU", block.ff.net[0]), cast("nn.Linear", block.ff.net[2])
        self.proj, self.out = gated.proj, AddedProduct(last.weight)
        self.missing = missing + bias_of(last)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, D), (B, L, context_dim) → x."""
        normed = self.norm1(x)
        x = self.attn1(x, normed, context) if self.only_cross else self.attn1(x, normed)
        x = self.attn2(x, self.norm2(x), context)
        return self.out(x, operators.geglu(self.proj(self.norm3(x))))


class Attending(nn.Module):
    """Attention over a feature map with a residual, x + f(x) + bias: what the two kinds share.

    `expects_bias` makes the layer take x + bias, and write its result over it: the block before adds both in one pass.
    """

    def __init__(self, norm: nn.GroupNorm | None, bias: Tensor) -> None:
        super().__init__()
        self.norm = None if norm is None else GroupNorm(norm)
        self.bias: Tensor  # (C,)
        self.negative_bias: Tensor  # (1, C)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("negative_bias", -bias[None], persistent=False)
        self.expects_bias = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B, L, context_dim) → channels-last (B, C, H, W)."""
        x = _channels_last(x)
        h = x if self.norm is None else self.norm(x, add=self.negative_bias if self.expects_bias else None)
        total = x if self.expects_bias else operators.add_bias(x, self.bias)
        return _image(self.attend(tokens(total), tokens(h), context), x)

    def attend(self, total: Tensor, h: Tensor, context: Tensor | None) -> Tensor:
        """Adds f's result for the normalised tokens h, without its bias, to `total`: (B, N, C) in place."""
        raise NotImplementedError


class SpatialAttention(Attending):
    """networks.layers.SpatialAttention: self-attention over the positions of a feature map."""

    def __init__(self, layer: plain.SpatialAttention) -> None:
        super().__init__(layer.group_norm, bias_of(_last(layer)))
        self.attention = SelfAttention(layer)

    def attend(self, total: Tensor, h: Tensor, context: Tensor | None) -> Tensor:
        return self.attention(total, h)


class SpatialTransformer(Attending):
    """networks.layers.SpatialTransformer: norm → projection → transformer blocks → projection → residual."""

    def __init__(self, layer: plain.SpatialTransformer) -> None:
        blocks: list[TransformerBlock] = []
        missing = torch.zeros_like(bias_of(layer.proj_in))
        for block in cast("Iterable[plain.TransformerBlock]", layer.transformer_blocks):
            blocks.append(TransformerBlock(block, missing))
            missing = blocks[-1].missing
        last = matrix(layer.proj_out)
        super().__init__(layer.norm, bias_of(layer.proj_out) + last.float() @ missing)
        self.proj_in = linear(matrix(layer.proj_in), layer.proj_in.bias)
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = AddedProduct(last)

    def attend(self, total: Tensor, h: Tensor, context: Tensor | None) -> Tensor:
        h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        return self.proj_out(total, h)


def give_bias_ahead(resnet: ResnetBlock, attention: Attending) -> None:
    """Makes the residual block add the bias of the attention that follows it."""
    if attention.norm is not None:  # without one the attention has to see what the block gives
        resnet.bias2 += attention.bias
        attention.expects_bias = True


def _last(attention: plain.Attention) -> nn.Linear:
    return cast("nn.Linear", attention.to_out[0])


def _joined(*layers: nn.Linear) -> nn.Linear:
    """Layers of one input as one layer, whose output is theirs in that order."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
    return linear(torch.cat([layer.weight.detach() for layer in layers]), bias)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _image(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) → channels-last (B, C, H, W) with the H and W of `like`, in the same memory."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
