"""Weights in the order in which oneDNN works with them. On a CPU it would else reorder them at every single call.

Only for inference, and only on CPUs: a packed layer has no weight to read or train any more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PACKABLE = (torch.float32, torch.bfloat16)
OPS: Any = torch.ops.mkldnn


def pack(module: nn.Module) -> None:
    """Replaces every convolution and linear layer in `module`, which stays what it is; a no-op where they cannot be."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and _packable(child):
            setattr(module, name, PackedConv2d(child))
        elif isinstance(child, nn.Linear) and _packable(child):
            setattr(module, name, PackedLinear(child))
        else:
            pack(child)


def _packable(layer: nn.Conv2d | nn.Linear) -> bool:
    return layer.weight.device.type == "cpu" and layer.weight.dtype in PACKABLE


class PackedConv2d(nn.Module):
    """`nn.Conv2d` with its weight in blocks."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.how: list[Any] = [layer.padding, layer.stride, layer.dilation, layer.groups]
        plain = layer.weight.detach().to_mkldnn()
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *self.how)
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return OPS._convolution_pointwise(x, self.weight, self.bias, *self.how, "none", [], "")


class PackedLinear(nn.Module):
    """`nn.Linear` with its weight in blocks."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = OPS._reorder_linear_weight(layer.weight.detach())
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return OPS._linear_pointwise(x, self.weight, self.bias, "none", [], "")
