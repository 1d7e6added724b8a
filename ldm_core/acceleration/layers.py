"""Layers of frozen networks on a CPU: torch's results from weights prepacked for MKL, oneDNN or Winograd.

torch's own layers bring their weights into oneDNN's layout at every call, which for a U-Net of few rows takes longer
than some of its arithmetic. Measured on two cores against diffusers' default, float32, two rows: Stable Diffusion 1.x
at 32² latents 1.17 x with torch's layers and 1.42 x with these (python -m benchmarks.step).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldm_core.acceleration import kernels, native, winograd
from ldm_core.huge_pages import huge_empty
from ldm_core.lru_cache import LRUCache
from ldm_core.networks.layers import GEGLU, GroupNormSiLU

SMALL = 4 * 2**20  # bytes
KEPT, KEPT_SMALL = 2, 16  # layouts of a weight at once, so that calls of other shapes take turns without packing again


def faster(layer: nn.Module) -> nn.Module:
    """The layer in a form that takes less time here; itself where there is none."""
    dtype = next((weight.dtype for weight in layer.parameters()), None)
    if dtype not in native.DTYPES or not native.has_onednn(dtype):
        return layer
    match layer:
        case nn.Conv2d():
            return _faster_convolution(layer)
        case nn.Linear():
            return Product(layer.weight, layer.bias) if dtype == torch.float32 else PackedLinear(layer)
        case nn.GroupNorm():
            return GroupNorm(layer) if native.present() else ContiguousGroupNorm(layer)
        case nn.LayerNorm() if native.present() and kernels.takes_layer_norm(layer):
            return LayerNorm(layer)
        case GEGLU() if native.present():
            return FusedGEGLU(layer)
    return layer


def _faster_convolution(layer: nn.Conv2d) -> nn.Module:
    if layer.kernel_size == (1, 1) and layer.weight.dtype == torch.float32:
        return Pointwise(layer.weight.flatten(1), layer.bias)
    if layer.stride == layer.padding == (1, 1) and layer.bias is not None and winograd.takes(layer.weight):
        return WinogradConv2d(layer)
    return PackedConv2d(layer)


class Product(nn.Module):
    """A linear layer in float32, (..., in) → (..., out), by an operator to which tape.py can give a place.

    MKL computes these, faster than oneDNN, and takes less time over a small product where its weight is transposed.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        transposed = huge_empty(*weight.t().shape, dtype=weight.dtype).copy_(weight.t())
        self.weight, self.bias = _frozen(transposed), bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = torch.mm(rows, self.weight) if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return y.view(*x.shape[:-1], -1)


class Pointwise(Product):
    """A 1 × 1 convolution in float32, (B, in, H, W) → (B, out, H, W): a product over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WinogradConv2d(nn.Module):
    """A 3 × 3 convolution, (B, in, H, W) → (B, out, H, W), from its transformed weight alone."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert layer.bias is not None
        self.weight, self.bias = _frozen(winograd.transformed(layer.weight)), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return winograd.convolve(x, self.weight, self.bias)


class Packed(nn.Module):
    """A layer that oneDNN computes. Its layouts of the weight depend on the input's shape; the latest are kept.

    Bringing a weight from one such layout into another is slower than packing, so the plain weight stays beside them.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._layouts: LRUCache[Tensor] = LRUCache(lambda packed: packed.nbytes)
        self._kept = KEPT_SMALL if layer.weight.nbytes <= SMALL else KEPT

    def packed(self, shape: torch.Size, pack: Callable[[Tensor], Tensor]) -> Tensor:
        return self._layouts.get(shape, lambda: pack(self.weight), self._kept)


class PackedConv2d(Packed):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self._where = [list(part) for part in (layer.padding, layer.stride, layer.dilation)]

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W); the result is channels-last
        def pack(weight: Tensor) -> Tensor:
            return torch.ops.mkldnn._reorder_convolution_weight(weight, *self._where, 1, x.shape)

        weight, compute = self.packed(x.shape, pack), torch.ops.mkldnn._convolution_pointwise.default
        return compute(x, weight, self.bias, *self._where, 1, "none", [], "")


class PackedLinear(Packed):
    def forward(self, x: Tensor) -> Tensor:  # (..., in) → (..., out)
        rows = x.shape[:-1]
        weight = self.packed(rows, lambda plain: torch.ops.mkldnn._reorder_linear_weight(plain, rows.numel()))
        return torch.ops.mkldnn._linear_pointwise.default(x, weight, self.bias, "none", [], "")


class GroupNorm(nn.Module):
    """GroupNorm, with SiLU after it where the layer has one, in one pass: (B, C, H, W) → channels-last."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self.layer, self.silu = layer, isinstance(layer, GroupNormSiLU)

    def forward(self, x: Tensor) -> Tensor:
        return kernels.group_norm(x, self.layer, silu=self.silu)


class ContiguousGroupNorm(nn.Module):
    """torch's GroupNorm, whose kernel for channels-last memory loses most digits where means are large."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.contiguous())


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension: (..., D) → (..., D)."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.layer)


class FusedGEGLU(nn.Module):
    """GEGLU whose gate is one pass: (..., D) → (..., hidden)."""

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        self.proj = layer.proj

    def forward(self, x: Tensor) -> Tensor:
        return kernels.geglu(self.proj(x))


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
