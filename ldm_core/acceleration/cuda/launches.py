"""What each call of the Triton kernels launches: block sizes and grids, from shapes alone.

No block size depends on the number of images: an image's bits are the same in every batch. Only operators.py imports
this module, where there is Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ldm_core.acceleration.cuda.kernels import group_norm, tokens

IN_REGISTERS = 64 * 1024  # bytes of a block of channels that one program holds: 64 for each of 1024 threads
LEAST_CHANNELS = 16  # of a block in registers: 32 bytes in half precision, which are one sector of memory
BLOCK = 128  # channels of a block that does not fit
WARP = 32  # threads
TILE = 4096  # elements that a program loads at a time: 32 for each of 128 threads
TILES = 8  # of one program of `normalise`, which merges an image's statistics first
SLICES, SLICE = 128, 128  # most slices of an image, and least pixels of a slice


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel over a grid of programs."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, int | bool]
    warps: int = 4

    def run(self) -> None:
        """Enqueues the kernel on the current stream of the first tensor's device."""
        with torch.cuda.device_of(self.arguments["x"]):
            self.kernel[self.grid](**self.arguments, **self.constants, num_warps=self.warps)


@dataclass(frozen=True, slots=True)
class GroupNormCall:
    """A GroupNorm over channels-last maps, x (B, X, H, W) and `skip` (B, SKIP, H, W) joined along channels.

    `add` is (1 or B, C), `scale_shift` (B, 2 · C). Rows of both may lie apart, their numbers may not.
    """

    x: Tensor
    skip: Tensor | None
    weight: Tensor
    bias: Tensor
    groups: int
    eps: float
    add: Tensor | None
    scale_shift: Tensor | None
    silu: bool

    @property
    def width(self) -> int:
        """Channels of a group."""
        return len(self.weight) // self.groups

    @property
    def sources(self) -> int:
        """Tensors of which each element of a block is loaded; all but one of the loads are masked."""
        return 1 if self.skip is None else 2

    @property
    def pixels(self) -> int:
        return self.x.shape[2] * self.x.shape[3]

    @property
    def least_groups(self) -> int:
        """Of a block that is held in registers."""
        return min(triton.cdiv(LEAST_CHANNELS, self.width), self.groups)

    @property
    def held(self) -> int:
        """Bytes of such a block of one image, both sides rounded up to powers of two."""
        channels = triton.next_power_of_2(self.least_groups * self.width)
        return triton.next_power_of_2(self.pixels) * channels * self.x.element_size()

    @property
    def fits_registers(self) -> bool:
        """Whether one kernel reads the maps once; else two kernels read them twice."""
        return self.held * self.sources <= IN_REGISTERS

    def launches(self, y: Tensor) -> list[Launch]:
        return [self._in_registers(y)] if self.fits_registers else self._in_slices(y)

    def _in_registers(self, y: Tensor) -> Launch:
        grid = len(self.x), triton.cdiv(self.groups, self.least_groups)
        arguments = self._sources(pixels=self.pixels) | self._results(y)
        constants = self._blocks(self.least_groups) | self._steps() | {"PIXELS": triton.next_power_of_2(self.pixels)}
        warps = min(max(self.held // (WARP * 64), 1), 32)
        return Launch(group_norm.group_norm_in_registers, grid, arguments, constants, warps)

    def _in_slices(self, y: Tensor) -> list[Launch]:
        block_groups = max(min(BLOCK // self.width, self.groups), 1)
        images, blocks = len(self.x), triton.cdiv(self.groups, block_groups)
        slice_pixels = max(SLICE, triton.cdiv(self.pixels, SLICES))
        statistics = self.x.new_empty(images, 2, self.groups, SLICES, dtype=torch.float32)
        arguments = self._sources(pixels=self.pixels, slice_pixels=slice_pixels, statistics=statistics)
        constants = self._blocks(block_groups)
        constants |= {"SLICES": SLICES, "TILE": TILE // self.sources // constants["BLOCK"]}
        slices = triton.cdiv(self.pixels, slice_pixels)
        parts = triton.cdiv(self.pixels, constants["TILE"] * TILES)
        measure, normalise = group_norm.partial_statistics, group_norm.normalise
        return [
            Launch(measure, (images, slices, blocks), arguments, constants),
            Launch(normalise, (images, parts, blocks), arguments | self._results(y),
                   constants | self._steps() | {"TILES": TILES}),
        ]  # fmt: skip

    def _sources(self, **more: Any) -> dict[str, Any]:
        """What is read for the statistics; x stands in for a tensor that is not there."""
        add = self.x if self.add is None else self.add
        skip = self.x if self.skip is None else self.skip
        return {"x": self.x, "skip": skip, "add": add, "add_stride": 0 if len(add) == 1 else add.stride(0), **more}

    def _results(self, y: Tensor) -> dict[str, Any]:
        vectors = self.x if self.scale_shift is None else self.scale_shift
        stride = 0 if self.scale_shift is None else vectors.stride(0)
        return {"y": y, "weight": self.weight, "bias": self.bias, "scale_shift": vectors, "scale_shift_stride": stride,
                "eps": self.eps}  # fmt: skip

    def _blocks(self, block_groups: int) -> dict[str, int | bool]:
        return {
            "X": self.x.shape[1], "SKIP": 0 if self.skip is None else self.skip.shape[1], "WIDTH": self.width,
            "BLOCK": triton.next_power_of_2(block_groups * self.width), "BLOCK_GROUPS": block_groups,
            "GROUPS": triton.next_power_of_2(block_groups), "ADD": self.add is not None,
        }  # fmt: skip

    def _steps(self) -> dict[str, int | bool]:
        return {"SCALE_SHIFT": self.scale_shift is not None, "SILU": self.silu}


def layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None) -> Launch:
    """LayerNorm(x + add) of each row of (rows, D)."""
    width = x.shape[-1]
    arguments = {"x": x, "y": y, "weight": weight, "bias": bias, "add": x if add is None else add, "eps": eps}
    block = triton.next_power_of_2(width)
    constants = {"WIDTH": width, "BLOCK": block, "ADD": add is not None}
    return Launch(tokens.layer_norm, (len(x),), arguments, constants, warps=min(max(block // 512, 1), 16))


def geglu(x: Tensor, y: Tensor) -> Launch:
    """(rows, 2 · D) → (rows, D)."""
    return _over_matrix(tokens.geglu, y, {"x": x, "y": y}, {})


def add_bias(x: Tensor, y: Tensor, bias: Tensor, residual: Tensor | None) -> Launch:
    """x + bias + residual, (rows, D) and the bias (D,)."""
    arguments = {"x": x, "y": y, "bias": bias, "residual": x if residual is None else residual}
    return _over_matrix(tokens.add_bias, y, arguments, {"RESIDUAL": residual is not None})


def _over_matrix(kernel: Any, y: Tensor, arguments: dict[str, Any], constants: dict[str, int | bool]) -> Launch:
    rows, width = y.shape
    block = min(triton.next_power_of_2(width), BLOCK)
    tile = TILE // 2 // block
    grid = triton.cdiv(rows, tile), triton.cdiv(width, block)
    return Launch(kernel, grid, arguments | {"rows": rows}, constants | {"WIDTH": width, "TILE": tile, "BLOCK": block})
