"""LayerNorm, GEGLU, and a convolution's bias and residual.

Each row of a matrix, or each element, is computed by itself: its bits depend neither on its place nor on its company.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def layer_norm(
    x, y, weight, bias, add, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """y = LayerNorm(x + add) (Ba et al. 2016) of one row of (rows, WIDTH), `add` being (WIDTH,). Grid: (rows,)."""
    start = tl.program_id(0).to(tl.int64) * WIDTH
    lane = tl.arange(0, BLOCK)
    inside = lane < WIDTH
    value = tl.load(x + start + lane, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(add + lane, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(inside, value - tl.sum(value, axis=0) / WIDTH, 0.0)
    value = value / tl.sqrt(tl.sum(value * value, axis=0) / WIDTH + eps)
    gain = tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + start + lane, (value * gain + offset).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def geglu(x, y, rows, WIDTH: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """y = value · GELU(gate) (Shazeer 2020): (rows, 2·WIDTH) → (rows, WIDTH). Grid: (rows / TILE, WIDTH / BLOCK).

    GELU is the exact one, g·Φ(g) = g/2·(1 + erf(g/√2)) (Hendrycks & Gimpel 2016).
    """
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
    place = row[:, None] * WIDTH + column[None, :]
    there = place + row[:, None] * WIDTH  # rows of x are twice as wide
    value = tl.load(x + there, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + there + WIDTH, mask=mask, other=0.0).to(tl.float32)
    value *= 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + place, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def add_bias(
    x, y, bias, residual, rows, WIDTH: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """y = x + bias + residual: (rows, WIDTH), the bias (WIDTH,). Grid: (rows / TILE, WIDTH / BLOCK)."""
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (column < WIDTH)[None, :]
    place = row[:, None] * WIDTH + column[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    value += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        value += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=mask)
