"""Convolutions and linear layers whose weights lie ready in the layout that oneDNN computes in.

torch's own layers bring their weights into that layout at every call, which for a U-Net of few rows takes longer than
some of its arithmetic. Measured on two cores against diffusers' default, float32, two rows: Stable Diffusion 1.x at 32²
latents 1.17 x with torch's layers and 1.42 x with these, `scenes` 1.16 x and 1.26 x (python -m benchmarks.step).

The layout depends on the input's shape, and bringing a weight from one such layout into another is slower still, so the
plain weight stays beside it. Where the package's kernels were compiled, most 3 × 3 convolutions are winograd.py's and
others patches.py's instead. Elsewhere than on a CPU, and in training, these are torch's layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from ldm_core.acceleration import kernels, native, patches, winograd
from ldm_core.latest import Latest, only_infers, version

Module = TypeVar("Module", bound=nn.Module)

ANY = torch.Size()
SMALL = 4 * 2**20  # bytes
KEPT, KEPT_SMALL = 2, 16  # layouts of a weight at once, so that calls of other shapes take turns without packing again


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d; the result is in channels-last memory where oneDNN computes it."""

    def __init__(self, ins: int, out: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        assert kernel > 1 or (stride, padding) == (1, 0), "a product over pixels takes all of them as they are"
        super().__init__(ins, out, kernel, stride=stride, padding=padding)
        self._stride_and_padding = stride, padding
        self._where = [list(part) for part in (self.padding, self.stride, self.dilation)]
        self._packed = _Packed(self._pack)
        self._transformed = _Packed(lambda weight, _: winograd.transformed(weight))
        self._patches = _Packed(lambda weight, _: patches.matrix(weight))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        weight, bias = self.weight, self.bias
        if not _by_onednn(x, weight):
            return super().forward(x)
        if self.kernel_size == (1, 1) and x.dtype == torch.float32:
            return kernels.product(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        if self.stride == self.padding == (1, 1) and winograd.takes(weight):
            assert bias is not None
            return winograd.convolve(x, self._transformed.get(weight), bias)
        if patches.takes(x, weight):
            return patches.convolve(x, self._patches.get(weight), bias, *self._stride_and_padding)
        packed, compute = self._packed.get(weight, x.shape), torch.ops.mkldnn._convolution_pointwise.default
        return compute(x, packed, bias, *self._where, self.groups, "none", [], "")

    def _pack(self, weight: Tensor, shape: torch.Size) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._where, self.groups, shape)
        return packed


class Linear(nn.Linear):
    """torch.nn.Linear; packed in bfloat16 only: in float32 torch's own calls MKL, which is faster than oneDNN."""

    def __init__(self, ins: int, out: int, *, bias: bool = True) -> None:
        super().__init__(ins, out, bias=bias)
        self._packed = _Packed(lambda weight, rows: torch.ops.mkldnn._reorder_linear_weight(weight, rows.numel()))

    def forward(self, x: Tensor) -> Tensor:  # (..., in_features) → (..., out_features)
        if not _by_onednn(x, self.weight):
            return super().forward(x)
        if x.dtype == torch.float32:
            return kernels.product(x, self.weight, self.bias)
        packed = self._packed.get(self.weight, x.shape[:-1])
        return torch.ops.mkldnn._linear_pointwise.default(x, packed, self.bias, "none", [], "")


def for_inference(module: Module) -> Module:
    """Freezes a module where it is; on a CPU, float32 weights of products go into the order in which they are read.

    MKL then takes less time over a small product: `scenes` at two rows 1.03 x. Values, shapes and results stay.
    """
    module.eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, Linear | Conv2d) and layer.weight[0, 0].numel() == 1 and _is_plain(layer.weight):
            layer.weight.data = layer.weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    return module


def arithmetic() -> str:
    """What results on this CPU depend on, beside torch's version and its number of threads."""
    ours = "kernels" if native.present() else "no kernels"
    products = "reproducible products" if native.reproducible_products() else "plain products"
    has = torch.cpu.get_capabilities()
    more = [name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16") if has.get(name)]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *more, products, ours])


def _is_plain(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


class _Packed:
    """A weight packed for the shapes of input that came last, or once for all of them."""

    def __init__(self, pack: Callable[[Tensor, torch.Size], Tensor]) -> None:
        self._pack = pack
        self._latest: Latest[Tensor] = Latest()  # for all shapes
        self._layouts: Latest[Tensor] = Latest(lambda packed: packed.nbytes)

    def get(self, weight: Tensor, shape: torch.Size = ANY) -> Tensor:
        latest = self._latest if shape is ANY else self._layouts
        keep = 1 if shape is ANY else KEPT_SMALL if weight.nbytes <= SMALL else KEPT
        return latest.get((shape, version(weight)), lambda: self._pack(weight.detach(), shape), keep)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether it computes them here."""
    if x.device.type != "cpu" or x.dtype != weight.dtype or not only_infers(x.device):
        return False
    return (x.dtype == torch.float32 and _has_onednn()) or (x.dtype == torch.bfloat16 and _has_bfloat16())


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available()


@cache
def _has_bfloat16() -> bool:
    return _has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
