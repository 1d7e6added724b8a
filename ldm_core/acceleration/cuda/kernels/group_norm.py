"""GroupNorm (Wu & He 2018) over channels-last memory.

    y = silu((norm(x + add) · weight + bias) · (1 + scale) + shift),   norm(v) = (v - mean) / √(variance + eps)

Small feature maps take one kernel, which holds the whole of some groups in registers: one read, one write. Large ones
take two: `partial_statistics` reads slices of an image, `normalise` merges the slices and reads the image again.

The same bits for an image wherever it stands in a batch: a program sees one image alone, all block sizes are constants
of the layer, and the number of slices follows from the image's size. Sums are taken in float32, variances around the
mean and never as E[v²] - E[v]², and slices are merged as Chan et al. 1983 do.

Names: an image has `pixels` positions of C channels; a block of channels is `BLOCK` wide and holds `BLOCK_GROUPS` whole
groups of `WIDTH` channels each, and nothing behind them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(x, skip, add, base, pixel, channel, mask, X: tl.constexpr, SKIP: tl.constexpr, ADD: tl.constexpr):
    """A tile (P, BLOCK) in float32 of x and `skip`, joined along channels, plus the vector `add`.

    Loads zeros where `mask` is false. `base` is the first pixel of the image, in 64 bits; a place in the image has 32.
    `add` starts with the image's own vector.
    """
    in_x = channel < X
    there = x + base * X + (pixel[:, None] * X + channel[None, :])
    value = tl.load(there, mask=mask & in_x[None, :], other=0.0).to(tl.float32)
    if SKIP > 0:
        there = skip + base * SKIP + (pixel[:, None] * SKIP + (channel - X)[None, :])
        value += tl.load(there, mask=mask & (channel >= X)[None, :], other=0.0).to(tl.float32)
    if ADD:
        vector = tl.load(add + channel, mask=channel < X + SKIP, other=0.0).to(tl.float32)
        value = tl.where(mask, value + vector[None, :], 0.0)
    return value


@triton.jit
def _finish(value, y, weight, bias, scale_shift, base, pixel, channel, mask,
            C: tl.constexpr, SCALE_SHIFT: tl.constexpr, SILU: tl.constexpr):  # fmt: skip
    """Applies all that follows the normalisation to a tile (P, BLOCK), and stores the tile."""
    inside = channel < C
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    value = value * gain[None, :] + offset[None, :]
    if SCALE_SHIFT:
        scale = tl.load(scale_shift + channel, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(scale_shift + C + channel, mask=inside, other=0.0).to(tl.float32)
        value = value * (1.0 + scale)[None, :] + shift[None, :]
    if SILU:
        value = value / (1.0 + tl.exp(-value))
    tl.store(y + base * C + (pixel[:, None] * C + channel[None, :]), value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _channels(block, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_GROUPS: tl.constexpr):
    """The channels of a block, whether each is one, and which group of the block each belongs to."""
    lane = tl.arange(0, BLOCK)
    channel = block * (BLOCK_GROUPS * WIDTH) + lane
    return channel, (lane < BLOCK_GROUPS * WIDTH) & (channel < C), lane // WIDTH


@triton.jit
def _sum_groups(of_channels, group, GROUPS: tl.constexpr):
    """(BLOCK,) → (GROUPS,): the sum over each group's channels."""
    member = group[None, :] == tl.arange(0, GROUPS)[:, None]
    return tl.sum(tl.where(member, of_channels[None, :], 0.0), axis=1)


@triton.jit
def _of_channels(of_groups, group, GROUPS: tl.constexpr):
    """(GROUPS,) → (BLOCK,): the value of each channel's group."""
    member = group[None, :] == tl.arange(0, GROUPS)[:, None]
    return tl.sum(tl.where(member, of_groups[:, None], 0.0), axis=0)


@triton.jit(do_not_specialize=["pixels", "add_stride", "scale_shift_stride"])
def group_norm_in_registers(
    x, skip, y, weight, bias, add, scale_shift, pixels, add_stride, scale_shift_stride, eps,
    X: tl.constexpr, SKIP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr, PIXELS: tl.constexpr, ADD: tl.constexpr, SCALE_SHIFT: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Normalises the groups of one block of channels of one image. Grid: (images, blocks); pixels ≤ PIXELS."""
    image, C = tl.program_id(0).to(tl.int64), X + SKIP
    channel, inside, group = _channels(tl.program_id(1), C, WIDTH, BLOCK, BLOCK_GROUPS)
    pixel = tl.arange(0, PIXELS)
    mask = (pixel < pixels)[:, None] & inside[None, :]
    value = _load(x, skip, add + image * add_stride, image * pixels, pixel, channel, mask, X, SKIP, ADD)
    count = (pixels * WIDTH).to(tl.float32)
    mean = _of_channels(_sum_groups(tl.sum(value, axis=0), group, GROUPS) / count, group, GROUPS)
    value = tl.where(mask, value - mean[None, :], 0.0)
    variance = _sum_groups(tl.sum(value * value, axis=0), group, GROUPS) / count
    value = value * _of_channels(1.0 / tl.sqrt(variance + eps), group, GROUPS)[None, :]
    own = scale_shift + image * scale_shift_stride
    _finish(value, y, weight, bias, own, image * pixels, pixel, channel, mask, C, SCALE_SHIFT, SILU)


@triton.jit(do_not_specialize=["pixels", "slice_pixels", "add_stride"])
def partial_statistics(
    x, skip, add, statistics, pixels, slice_pixels, add_stride,
    X: tl.constexpr, SKIP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr, TILE: tl.constexpr, SLICES: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Stores mean and sum of squared deviations of one slice of an image by group. Grid: (images, slices, blocks).

    `statistics` is float32 (images, 2, groups, SLICES). Every slice has a pixel; the last one may be shorter.
    """
    image, part, block, C = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2), X + SKIP
    channel, inside, group = _channels(block, C, WIDTH, BLOCK, BLOCK_GROUPS)
    first = part * slice_pixels
    end = tl.minimum(first + slice_pixels, pixels)
    mean, squares = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)  # of each channel
    for begin in range(first, end, TILE):
        pixel = begin + tl.arange(0, TILE)
        mask = (pixel < end)[:, None] & inside[None, :]
        value = _load(x, skip, add + image * add_stride, image * pixels, pixel, channel, mask, X, SKIP, ADD)
        before, count = (begin - first).to(tl.float32), tl.minimum(TILE, end - begin).to(tl.float32)
        tile_mean = tl.sum(value, axis=0) / count
        deviation = tl.where(mask, value - tile_mean[None, :], 0.0)
        step = tile_mean - mean
        squares += tl.sum(deviation * deviation, axis=0) + step * step * (before * count / (before + count))
        mean += step * (count / (before + count))
    group_mean = _sum_groups(tl.where(inside, mean, 0.0), group, GROUPS) / WIDTH
    step = mean - _of_channels(group_mean, group, GROUPS)
    squares = tl.where(inside, squares + (end - first).to(tl.float32) * step * step, 0.0)
    index = block * BLOCK_GROUPS + tl.arange(0, GROUPS)
    stored = (tl.arange(0, GROUPS) < BLOCK_GROUPS) & (index < C // WIDTH)
    there = statistics + image * (2 * (C // WIDTH) * SLICES) + index * SLICES + part
    tl.store(there, group_mean, mask=stored)
    tl.store(there + (C // WIDTH) * SLICES, _sum_groups(squares, group, GROUPS), mask=stored)


@triton.jit
def _merged(statistics, index, real, pixels, slice_pixels, WIDTH: tl.constexpr, ALL: tl.constexpr,
            SLICES: tl.constexpr):  # fmt: skip
    """Mean and variance, (GROUPS,) each, of the groups `index` of one image, merged from its slices."""
    part = tl.arange(0, SLICES)
    count = tl.minimum(slice_pixels, pixels - part * slice_pixels) * WIDTH
    there = statistics + index[:, None] * SLICES + part[None, :]
    mask = real[:, None] & (count > 0)[None, :]
    weights = tl.maximum(count, 0).to(tl.float32)[None, :]
    means = tl.load(there, mask=mask, other=0.0)
    squares = tl.load(there + ALL * SLICES, mask=mask, other=0.0)
    total = (pixels * WIDTH).to(tl.float32)
    mean = tl.sum(means * weights, axis=1) / total
    step = means - mean[:, None]
    return mean, tl.sum(squares + weights * step * step, axis=1) / total


@triton.jit(do_not_specialize=["pixels", "slice_pixels", "add_stride", "scale_shift_stride"])
def normalise(
    x, skip, y, weight, bias, add, scale_shift, statistics, pixels, slice_pixels, add_stride, scale_shift_stride, eps,
    X: tl.constexpr, SKIP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr, SLICES: tl.constexpr, ADD: tl.constexpr,
    SCALE_SHIFT: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Normalises TILES tiles of one image. Grid: (images, pixels / (TILE · TILES), blocks)."""
    image, block, C = tl.program_id(0).to(tl.int64), tl.program_id(2), X + SKIP
    channel, inside, group = _channels(block, C, WIDTH, BLOCK, BLOCK_GROUPS)
    index = block * BLOCK_GROUPS + tl.arange(0, GROUPS)
    own = statistics + image * (2 * (C // WIDTH) * SLICES)
    mean, variance = _merged(own, index, index < C // WIDTH, pixels, slice_pixels, WIDTH, C // WIDTH, SLICES)
    mean = _of_channels(mean, group, GROUPS)
    factor = _of_channels(1.0 / tl.sqrt(variance + eps), group, GROUPS)
    first = tl.program_id(1) * (TILE * TILES)
    for begin in range(first, tl.minimum(first + TILE * TILES, pixels), TILE):
        pixel = begin + tl.arange(0, TILE)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        value = _load(x, skip, add + image * add_stride, image * pixels, pixel, channel, mask, X, SKIP, ADD)
        value = (value - mean[None, :]) * factor[None, :]
        vectors = scale_shift + image * scale_shift_stride
        _finish(value, y, weight, bias, vectors, image * pixels, pixel, channel, mask, C, SCALE_SHIFT, SILU)
