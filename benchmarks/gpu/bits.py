"""Whether a row has the same bits whatever shares its call, and what that costs: layers that run in pieces."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from benchmarks.gpu.workloads import WORKLOADS, Bench, Result
from benchmarks.networks import DENOISERS
from ldm_core.acceleration.accelerate import accelerate
from ldm_core.acceleration.cuda.layers import replace_layers
from ldm_core.acceleration.cuda.modules import AddedProduct, AttentionCore
from ldm_core.acceleration.pieces import MAGNITUDES, InPieces, admit, in_pieces
from ldm_core.networks.unet import UNet

INPUTS = 64  # rows that are compared
SHOWN = 40  # layers in pieces that get a line of their own

Parts = tuple[Tensor | None, ...]


@torch.inference_mode()
def measure(bench: Bench, name: str) -> Iterator[Result]:
    """The trial of every layer, then whole rows of the U-Net in calls of every number of rows and at other places."""
    unet = _unet_of_a_gpu(bench, name)
    base = WORKLOADS[name].rows
    counts = [base, *(rows for rows in sorted(bench.rows) if rows > base)]
    inputs = _inputs(bench, name)
    bench.finish()
    began = time.perf_counter()
    admit(unet, lambda: unet(*_few(inputs, slice(0, counts[0]))), counts)
    bench.finish()
    layers = [layer for layer in unet.modules() if isinstance(layer, InPieces)]
    apart = [layer for layer in layers if _most(layer) < counts[-1]]
    yield {
        "counts": counts, "trial_s": round(time.perf_counter() - began, 2), "layers": len(layers),
        "in_pieces": len(apart), "most_rows": _by_kind(layers),
    }  # fmt: skip
    for line, times in Counter(map(_described, apart)).most_common(SHOWN):
        yield {"layer": line, "times": times}
    yield {"inputs": INPUTS, **_whole_rows(unet, inputs, [1, *counts] if base > 1 else counts)}


def _unet_of_a_gpu(bench: Bench, name: str) -> UNet:
    """A U-Net with its layers in pieces, as loading makes it on CUDA; on a CPU with the same layers."""
    unet = bench.network(DENOISERS[name].build)
    if bench.on_gpu:
        return accelerate(unet)
    replace_layers(unet)
    in_pieces(unet, (nn.Conv2d, nn.Linear, AddedProduct, AttentionCore))
    return unet


def _inputs(bench: Bench, name: str) -> Parts:
    """Latents of several magnitudes at different timesteps."""
    x, t, context = DENOISERS[name].inputs(INPUTS, bench.dtype)
    scale = torch.tensor(MAGNITUDES, dtype=bench.dtype).repeat(INPUTS)[:INPUTS].view(-1, 1, 1, 1)
    parts = x * scale, t.float(), context
    return tuple(None if part is None else part.to(bench.device) for part in parts)


def _few(parts: Parts, rows: slice | Tensor) -> Parts:
    return tuple(None if part is None else part[rows] for part in parts)


def _whole_rows(unet: UNet, inputs: Parts, counts: Sequence[int]) -> Result:
    """By number of rows in a call, how many of the inputs have the bits of the smallest; in order, and moved."""
    expected = _called(unet, inputs, counts[0])
    elsewhere = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(0)).to(expected.device)
    moved, there = _few(inputs, elsewhere), expected[elsewhere]
    same = {
        count: [_alike(_called(unet, inputs, count), expected), _alike(_called(unet, moved, count), there)]
        for count in counts
    }
    return {"same_rows": same, "all_same": {*chain(*same.values())} == {INPUTS}, "finite": _all_finite(expected)}


def _called(unet: UNet, parts: Parts, count: int) -> Tensor:
    """All rows, in calls of `count`."""
    return torch.cat([unet(*_few(parts, slice(first, first + count))) for first in range(0, INPUTS, count)])


def _alike(found: Tensor, expected: Tensor) -> int:
    return int((found == expected).flatten(1).all(1).sum())


def _all_finite(rows: Tensor) -> bool:
    return bool(rows.isfinite().all())


def _most(layer: InPieces) -> int:
    """The most rows of one of its calls at this size."""
    return min(most for _, most in layer.between.values())


def _by_kind(layers: Sequence[InPieces]) -> dict[str, dict[int, int]]:
    """By kind of layer, how many have calls of how many rows."""
    kinds: dict[str, Counter[int]] = {}
    for layer in layers:
        kinds.setdefault(type(layer.layer).__name__, Counter())[_most(layer)] += 1
    return {kind: dict(sorted(found.items())) for kind, found in kinds.items()}


def _described(layer: InPieces) -> str:
    between = ", ".join(f"{shape}: {fewest} to {most} rows" for shape, (fewest, most) in layer.between.items())
    return f"{layer.layer!r} {between}"
