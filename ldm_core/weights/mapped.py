"""The tensors of a safetensors file as views of the file: nothing is read before it is used.

A file is mapped in pieces, each of which is unmapped with the last of its tensors, so that a network whose layers are
converted one by one never holds the file and its conversion at once.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ldm_core.model_directory.weight_files import TensorInfo

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
PIECE = 64 * 2**20  # bytes of neighbours that share a mapping; each mapping takes one of a process's 1024 open files
SMALL = 2**16  # bytes of a tensor that is read at once: norms and biases stay, and would keep all pieces mapped

Infos = list[tuple[str, TensorInfo]]


def mapped(file: Path, header: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """Every tensor of `header`, which `read_header` has checked against the file's size. Raises OSError.

    A tensor must not outlive the loading: what is written to the file would show in it.
    """
    with file.open("rb") as stream:
        found = {name: view for piece in _pieces(header) for name, view in _views(stream, piece)}
    return {name: found[name] for name in header}


def _pieces(header: Mapping[str, TensorInfo]) -> Iterator[Infos]:
    """The tensors in the order in which they lie, in groups of neighbours."""
    piece: Infos = []
    for name, info in sorted(header.items(), key=lambda item: item[1].place):
        if piece and info.place - piece[0][1].place + _nbytes(info) > PIECE:
            yield piece
            piece = []
        piece.append((name, info))
    if piece:
        yield piece


def _views(stream: BinaryIO, piece: Infos) -> Iterator[tuple[str, Tensor]]:
    first, last = piece[0][1], piece[-1][1]
    start = first.place // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = last.place + _nbytes(last) - start
    memory = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=start) if length else bytearray()
    for name, info in piece:
        yield name, _view(memory, info, info.place - start)


def _view(memory: mmap.mmap | bytearray, info: TensorInfo, at: int) -> Tensor:
    dtype, count = DTYPES[info.dtype], math.prod(info.shape)
    if not count:
        return torch.empty(info.shape, dtype=dtype)
    view = torch.frombuffer(memory, dtype=torch.uint8, count=_nbytes(info), offset=at)
    if len(view) <= SMALL or at % dtype.itemsize:  # where torch's kernels would find no whole number
        view = view.clone()
    return view.view(dtype).view(info.shape)


def _nbytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * DTYPES[info.dtype].itemsize
