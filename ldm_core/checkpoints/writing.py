"""Writes safetensors one tensor at a time, so that importing a large checkpoint needs no second copy in memory.

What has been written is read back in a thread beside, which hides most of the time that this takes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ldm_core.errors import ModelError

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

CHUNK = 2**20  # bytes written or read back at once: a whole tensor in one call takes Linux twice the time of a copy
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(
    file: Path, shapes: Shapes, read: Callable[[str], Tensor], check: Callable[[str, Tensor], None]
) -> None:
    """Writes tensors of these dtypes and shapes in the order of their names, and reads them back.

    `read` gives a tensor and is called twice for each; `check` may raise what is wrong with one. The layout is the
    safetensors format's: eight bytes of header length, a JSON header, the bytes one after another. Raises ModelError
    if the file does not read back as what was written, its header by the library that will load it.
    """

    def read_back(name: str) -> None:
        tensor = read(name)
        check(name, tensor)
        for part in _chunks(tensor):
            if not _reads(back, part):
                raise ModelError(file, f"{name} does not read back as it was written; is the disk sound?")

    with file.open("wb") as stream, file.open("rb") as back, ThreadPoolExecutor(1) as beside:
        header = _header(shapes)
        stream.write(header)
        back.seek(len(header))
        reading = []
        for name in shapes:
            for part in _chunks(read(name)):
                stream.write(part)
            stream.flush()
            reading.append(beside.submit(read_back, name))
        for one in reading:
            one.result()
    with safe_open(file, framework="pt") as stored:
        if set(stored.keys()) != set(shapes):
            raise ModelError(file, "does not read back as it was written; is the disk sound?")


def _header(shapes: Shapes) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    """The tensor's bytes."""
    whole = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    for start in range(0, len(whole), CHUNK):
        yield whole[start : start + CHUNK]


def _reads(stream: BinaryIO, expected: memoryview) -> bool:
    """Whether the next bytes are these. Comparing memoryviews would go byte by byte: seconds for each gigabyte."""
    found = np.frombuffer(stream.read(len(expected)), np.uint8)
    return np.array_equal(found, np.frombuffer(expected, np.uint8))
