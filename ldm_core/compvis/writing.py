"""Writes safetensors one tensor at a time, so that importing a large checkpoint needs no second copy in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_tensors(
    file: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], read: Callable[[str], Tensor]
) -> None:
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
            flat = read(name).contiguous().flatten().view(torch.uint8)
            stream.write(flat.numpy().data)
