"""Writes safetensors one tensor at a time, so that importing a large checkpoint needs no second copy in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

CHUNK = 2**24  # bytes read back at once
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(file: Path, shapes: Shapes, read: Callable[[str], Tensor]) -> None:
    """Writes tensors of these dtypes and shapes in the order of their names; `read` gives one when its turn comes.

    The layout is the safetensors format's: eight bytes of header length, a JSON header, the bytes one after another.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            stream.write(_bytes(read(name)))


def holds(file: Path, shapes: Shapes, read: Callable[[str], Tensor]) -> bool:
    """Whether `file` reads back as these tensors: its header by the library that will load it, then byte by byte."""
    with safe_open(file, framework="pt") as stored:
        if set(stored.keys()) != set(shapes):
            return False
    buffer = bytearray(CHUNK)
    with file.open("rb") as stream:
        stream.seek(8 + struct.unpack("<Q", stream.read(8))[0])
        for name in shapes:
            expected = _bytes(read(name))
            for start in range(0, len(expected), CHUNK):
                part = expected[start : start + CHUNK]
                count = stream.readinto(memoryview(buffer)[: len(part)])
                found = np.frombuffer(buffer, np.uint8, count)
                if count != len(part) or not np.array_equal(found, np.frombuffer(part, np.uint8)):
                    return False  # comparing memoryviews would go byte by byte: seconds for each gigabyte
        return not stream.read(1)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
