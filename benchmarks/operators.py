"""Operators of one U-Net call, and the bytes that those between products move: plain layers and those for CUDA.

Counted on the meta device, where nothing is computed, so it takes seconds and no GPU. The rules:

- An operator is one call of torch's that launches kernels; views and allocations launch none.
- Products, convolutions and attention count as operators; the bytes that they read and write are not counted. A product
  that adds to its residual in place reads the residual as well: the line "read by products" has those bytes, which are
  not part of the sum.
- Any other operator reads each input once and writes each output once; an expanded input is read as it lies in memory.
- cuDNN's convolutions have no bias: torch adds one in a pass of its own, which reads and writes the output (the pass is
  part of the convolution's operator).
- torch's GroupNorm on CUDA takes 7 passes over a channels-last tensor: it copies the tensor to NCHW (2), reads the
  statistics (1), normalises (2), and the next convolution copies back (2). With the SiLU behind it that makes 9.
- Our GroupNorm reads its input once where a group fits a program's registers, else twice, and writes its output once.

    python -m benchmarks.operators [--models sd1-512 superres-256] [--rows 16] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.networks import DENOISERS, Denoiser
from ldm_core.acceleration.cuda.launches import GroupNormCall
from ldm_core.acceleration.cuda.layers import replace_layers

ARITHMETIC = {"linear", "mm", "bmm", "addmm", "addmm_", "baddbmm", "convolution", "scaled_dot_product_attention"}
ALLOCATIONS = {"empty", "new_empty", "empty_like", "empty_strided", "arange", "scalar_tensor"}
GROUP_NORM_PASSES = 7


@dataclass
class Cost:
    """What one call costs, by operator."""

    calls: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)  # bytes
    read_by_products: int = 0  # bytes of residuals
    paused: bool = False

    @property
    def operators(self) -> int:
        return self.calls.total()

    @property
    def gigabytes(self) -> float:
        """Moved by what is neither product, convolution nor attention."""
        return self.moved.total() / 1e9

    def add(self, name: str, moved: int) -> None:
        self.calls[name] += 1
        self.moved[name] += moved

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Counts nothing while the block runs."""
        self.paused, before = True, self.paused
        try:
            yield
        finally:
            self.paused = before


def count(network: nn.Module, *inputs: Tensor | None) -> Cost:
    """The cost of one call of a network on the meta device."""
    cost = Cost()
    with torch.inference_mode(), _Dispatched(cost), _Functions(cost):
        network(*inputs)
    return cost


def unet_cost(denoiser: Denoiser, rows: int, dtype: torch.dtype, prepare: Callable[[nn.Module], None]) -> Cost:
    """The cost of one U-Net call after `prepare` has laid out the network."""
    with torch.device("meta"):
        unet = denoiser.build().to(dtype).eval().requires_grad_(False)
    prepare(unet)
    x, t, context = denoiser.inputs_on_meta(rows, dtype)
    return count(unet, x.contiguous(memory_format=torch.channels_last), t, context)


def plain(network: nn.Module) -> None:
    """torch's own layers in channels-last memory."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Dispatched(TorchDispatchMode):
    """Counts what reaches torch's dispatcher."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost = cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (self._cost.paused or func.is_view or name in ALLOCATIONS):
            self._cost.read_by_products += _nbytes(args[0]) if name == "addmm_" else 0
            self._cost.add(name, 0 if name in ARITHMETIC else self._moved(name, args, kwargs, result))
        return result

    def _moved(self, name: str, args: Any, kwargs: Any, result: Any) -> int:
        read = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if name == "copy_":
            read = read[1:]
        if name == "zero_":
            read = []
        if name == "group_norm" and not GroupNormCall(*args).fits_registers:
            read += [each for each in args[:2] if each is not None]
        return sum(_nbytes(each) for each in (*read, *tree_leaves(result)) if isinstance(each, Tensor))


class _Functions(TorchFunctionMode):
    """Gives functions the results that they have on CUDA, where those of the meta device are laid out otherwise."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost = cost

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._cost.paused:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._cost.add("scaled_dot_product_attention", 0)
            with self._cost.pause():
                return torch.empty_like(args[0].transpose(1, 2).contiguous()).transpose(1, 2)
        if func is F.group_norm:
            self._cost.add("group_norm", GROUP_NORM_PASSES * _nbytes(args[0]))
            with self._cost.pause():
                return torch.empty_like(args[0], memory_format=torch.channels_last)
        if func is F.conv2d:
            return self._convolved(func, args, kwargs)
        return func(*args, **kwargs)

    def _convolved(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        with self._cost.pause():
            result = func(*args, **kwargs).contiguous(memory_format=torch.channels_last)
        has_bias = (len(args) > 2 and args[2] is not None) or kwargs.get("bias") is not None
        self._cost.add("convolution", 0)
        self._cost.moved["a convolution's bias"] += 2 * _nbytes(result) if has_bias else 0
        return result


def _nbytes(tensor: Tensor) -> int:
    """Of memory that is read or written; an expanded dimension is there once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
    return torch.Size(sizes).numel() * tensor.element_size()


def _table(cost: Cost) -> str:
    names = sorted({*cost.calls, *cost.moved}, key=lambda name: -cost.moved[name])
    return "\n".join(f"    {name:34} {cost.calls[name]:5} {cost.moved[name] / 1e9:8.2f} GB" for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sd1-512"], choices=DENOISERS)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    given = parser.parse_args()
    for name in given.models:
        for label, prepare in (("plain layers", plain), ("layers for CUDA", replace_layers)):
            cost = unet_cost(DENOISERS[name], given.rows, getattr(torch, given.dtype), prepare)
            print(
                f"{name}, {given.rows} rows, {label}: {cost.operators} operators, {cost.gigabytes:.1f} GB between them"
            )
            print(_table(cost))
            print(f"    read by products: {cost.read_by_products / 1e9:.2f} GB of residuals")


if __name__ == "__main__":
    main()
