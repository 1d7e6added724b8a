"""Layers whose bits depend on how many rows share a call, in pieces of as many rows as do not change them.

On a GPU a library chooses another kernel for another number of rows, and some of these add up in another order. By
trial, `admit` finds for each layer and size the largest call in which every row has the bits that a small call gives;
from then on the layer runs in pieces of at most that many rows. Fewer rows than agree are filled up. Which ones agree
depends on shapes and versions alone: nothing is timed, and a restart finds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

import torch
from torch import Tensor, nn

INPUTS = 64  # rows that a trial compares, of four magnitudes
MAGNITUDES = (0.05, 0.5, 1.0, 8.0)
NUMBERS = 2**20

Shape = tuple[tuple[int, ...], ...]  # of one row of each argument


class InPieces(nn.Module):
    """A layer whose arguments and result have the rows of a call in their first dimension."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.between: dict[Shape, tuple[int, int]] = {}  # the fewest and the most rows of one call, by shape

    def forward(self, *parts: Tensor) -> Tensor:
        rows = len(parts[0])
        fewest, most = self.between.get(_shape(parts), (1, rows))
        if rows < fewest:
            return self.layer(*(torch.cat([part] * fewest)[:fewest] for part in parts))[:rows]
        return self.layer(*parts) if rows <= most else _in_calls(self.layer, parts, most)


def in_pieces(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Wraps every layer of these kinds, in place."""
    for name, layer in network.named_children():
        if isinstance(layer, kinds):
            network.add_module(name, InPieces(layer))
        else:
            in_pieces(layer, kinds)


@torch.inference_mode()
def admit(network: nn.Module, call: Callable[[], object], counts: Sequence[int]) -> None:
    """Makes a row's bits the same in calls of any of `counts`, and of fewer rows, for the sizes that `call` calls with.

    `counts` grow; the first is what the others are held against. Layers whose weights have equal shapes share a trial.
    """
    found: dict[Hashable, tuple[int, int]] = {}
    with _noting_shapes(network) as seen:
        call()
    numbers = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(0)).to(seen[0][1][0].device)
    for layer, parts in seen:
        if (shape := _shape(parts)) in layer.between:
            continue
        key = (repr(layer.layer), tuple(tuple(weight.shape) for weight in layer.parameters()), shape, parts[0].dtype)
        if key not in found:
            found[key] = _agreeing(layer.layer, parts, counts, numbers)
        layer.between[shape] = found[key]


def _agreeing(
    layer: nn.Module, like: Sequence[Tensor], counts: Sequence[int], numbers: Tensor
) -> tuple[int, int]:  # fmt: skip
    """Between how many rows a row has the bits of a call of `counts[0]`, at whatever place; (1, 1) if that matters."""
    rows, made = max(counts), torch.Generator().manual_seed(0)
    downwards = [counts[0] >> i for i in range(counts[0].bit_length())]
    agree = {*downwards, *counts}
    for first in range(0, INPUTS, rows):
        parts = [_random(part, first, rows, numbers.roll(NUMBERS * i // 7)) for i, part in enumerate(like)]
        elsewhere = torch.randperm(rows, generator=made).to(parts[0].device)
        expected = _in_calls(layer, _laid_out(parts, like), counts[0])
        for count in sorted(agree):
            orders = [elsewhere] if count == counts[0] else [elsewhere, torch.arange(rows, device=elsewhere.device)]
            for order in orders:
                moved = _laid_out([part.index_select(0, order) for part in parts], like)
                if not _agrees(layer, moved, count, expected.index_select(0, order)):
                    agree.discard(count)
    if counts[0] not in agree:
        return 1, 1
    return _last_agreeing(downwards, agree), _last_agreeing(counts, agree)


def _last_agreeing(counts: Sequence[int], agree: Collection[int]) -> int:
    return [*takewhile(agree.__contains__, counts)][-1]


def _agrees(layer: nn.Module, parts: Sequence[Tensor], count: int, expected: Tensor) -> bool:
    try:
        return torch.equal(_in_calls(layer, parts, count), expected)
    except (torch.OutOfMemoryError, ValueError):  # GroupNorm refuses a single number for each channel
        return False


def _in_calls(layer: nn.Module, parts: Sequence[Tensor], count: int) -> Tensor:
    return torch.cat([layer(*few) for few in zip(*(part.split(count) for part in parts), strict=True)])


def _random(like: Tensor, first: int, rows: int, numbers: Tensor) -> Tensor:
    """Rows `first` … `first + rows - 1` of a trial's input, each of one of the magnitudes.

    Each takes normal numbers of `numbers` in an order of its own, on the device: to draw and move all takes a minute.
    """
    place = torch.arange(like[0].numel(), device=like.device)
    made = []
    for row in range(first, first + rows):
        order = (place * (2 * row + 1) + 7919 * row) % len(numbers)
        made.append(numbers[order] * MAGNITUDES[row % len(MAGNITUDES)])
    return torch.stack(made).view(rows, *like.shape[1:]).to(like.dtype)


def _laid_out(parts: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Copies with the strides of `like`, by which libraries choose too; a layer may write over its arguments."""
    return [
        torch.empty_strided(part.shape, given.stride(), dtype=part.dtype, device=part.device).copy_(part)
        for part, given in zip(parts, like, strict=True)
    ]


def _shape(parts: Sequence[Tensor]) -> Shape:
    return tuple(tuple(part.shape[1:]) for part in parts)


@contextmanager
def _noting_shapes(network: nn.Module) -> Iterator[list[tuple[InPieces, tuple[Tensor, ...]]]]:
    """The layers in pieces that are called within the block, each with a call's arguments."""
    seen: list[tuple[InPieces, tuple[Tensor, ...]]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, InPieces)]
    hooks = [layer.register_forward_pre_hook(lambda layer, parts: seen.append((layer, parts))) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
