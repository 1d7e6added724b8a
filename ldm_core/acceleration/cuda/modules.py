"""The modules of which blocks.py is made: one operator each, so that each can be called in pieces of its rows.

The first dimension of every tensor that a product, a convolution or attention takes is that of the rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration.cuda import operators
from ldm_core.networks.layers import GroupNormSiLU

CHANNELS = 8  # cuDNN's kernels for tensor cores take channels in multiples of it


class GroupNorm(nn.Module):
    """GroupNorm, with SiLU after it where the plain layer has one: (B, C, H, W) → channels-last (B, C, H, W)."""

    def __init__(self, plain: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.groups, self.eps, self.silu = plain.num_groups, plain.eps, isinstance(plain, GroupNormSiLU)

    def forward(
        self, x: Tensor, *, skip: Tensor | None = None, add: Tensor | None = None, scale_shift: Tensor | None = None
    ) -> Tensor:
        """See operators.group_norm; with a scale and a shift there is a SiLU after them."""
        return operators.group_norm(
            x, self.weight, self.bias, self.groups, self.eps, skip=skip, add=add, scale_shift=scale_shift,
            silu=self.silu or scale_shift is not None,
        )  # fmt: skip


class LayerNorm(nn.Module):
    """LayerNorm of x + `add`, a constant vector (D,): (..., D) → (..., D)."""

    def __init__(self, plain: nn.LayerNorm, add: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = plain.weight, plain.bias, plain.eps
        self.add: Tensor
        self.register_buffer("add", add, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return operators.layer_norm(x, self.weight, self.bias, self.eps, self.add)


class AddedProduct(nn.Module):
    """Adds a product to `total`, in place: (..., out) += (..., in) · weightᵀ.

    cuBLAS reads and writes `total` itself; a sum by itself would pass over memory three times.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = frozen(weight)  # (out, in)

    def forward(self, total: Tensor, x: Tensor) -> Tensor:
        """Both with one first dimension, and dense. Returns `total`."""
        total.view(-1, total.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), self.weight.t())
        return total


class AttentionCore(nn.Module):
    """softmax(QKᵀ/√d)V: three tensors (B, N or L, heads, d) → (B, N, heads · d)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return h.transpose(1, 2).flatten(2)


class PaddedConv2d(nn.Module):
    """A convolution of few channels, (B, in, H, W) → (B, out, H, W), as one of a multiple of CHANNELS.

    The channels that are added are zeros.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.out_channels = plain.out_channels
        more_in, more_out = (-plain.in_channels) % CHANNELS, (-plain.out_channels) % CHANNELS
        self.conv, self.in_channels = plain, plain.in_channels + more_in
        plain.weight = frozen(F.pad(plain.weight, (0, 0, 0, 0, 0, more_in, 0, more_out)))
        if plain.bias is not None:
            plain.bias = frozen(F.pad(plain.bias, (0, more_out)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self._padded(x))[:, : self.out_channels]

    def _padded(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.in_channels:
            return x
        size = (len(x), self.in_channels, *x.shape[2:])
        padded = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        padded[:, x.shape[1] :].zero_()
        padded[:, : x.shape[1]].copy_(x)
        return padded


def without_bias(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution itself, its bias removed: cuDNN's result has none, and torch adds one in a pass of its own."""
    convolution.bias = None
    return convolution


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these weights, (out, in) and (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = frozen(weight)
    if bias is not None:
        layer.bias = frozen(bias)
    return layer


def matrix(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weight (out, in) of a linear layer, or of a 1 × 1 convolution."""
    return layer.weight.detach().reshape(layer.weight.shape[:2])


def bias_of(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """A copy of the bias in float32, in which biases are added up: (out,)."""
    if layer.bias is None:
        return torch.zeros(len(layer.weight), device=layer.weight.device)
    return layer.bias.detach().to(torch.float32, copy=True)


def tokens(x: Tensor) -> Tensor:
    """Channels-last (B, C, H, W) as (B, H · W, C), in the same memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach(), requires_grad=False)
