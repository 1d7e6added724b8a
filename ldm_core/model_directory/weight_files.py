"""Finds a component's files of weights, and reads what safetensors headers say of them. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ldm_core.errors import ModelError
from ldm_core.model_directory.json_files import read_json

# of diffusers, of transformers; safetensors before pickles, full precision before half, averaged weights before others
STEMS = {".safetensors": ("diffusion_pytorch_model", "model"), ".bin": ("diffusion_pytorch_model", "pytorch_model")}
VARIANTS = ("", ".fp16", ".bf16", ".ema", ".non_ema")
MAX_HEADER = 16 * 2**20  # bytes; a U-Net of 1,000 tensors has 0.1 MB
MAX_TENSORS = 100_000
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # bytes
WEIGHTS = (".safetensors", ".bin", ".msgpack", ".onnx", ".h5", ".pt", ".pth", ".ckpt", ".gguf")
NO_WEIGHTS = ((b"version https://git-lfs", "a git-lfs pointer; fetch the file itself with: git lfs pull"),
              (b"<", "a web page; download it again"))  # fmt: skip


class TensorInfo(NamedTuple):
    """What a header says of one tensor.

    `dtype` is the format's name, such as F16, `place` counts bytes from the file's beginning.
    """

    dtype: str
    shape: tuple[int, ...]
    place: int


def find_weights(path: Path) -> list[Path]:
    """The files that hold a component's weights: one, or the shards that an index names. Raises ModelError."""
    for suffix, stems in STEMS.items():
        for variant in VARIANTS:
            for stem in stems:
                if (file := path / f"{stem}{variant}{suffix}").exists():
                    return [file]
                for index in _index_names(path, stem, variant, suffix):
                    if index.exists():
                        return _shards(index)
    there = sorted(file.name for file in path.glob("*") if file.suffix in WEIGHTS)
    other = f"; there is {', '.join(there[:3])}" if there else ""
    raise ModelError(path, f"has no .safetensors file and no .bin file of its weights{other}")


def _index_names(path: Path, stem: str, variant: str, suffix: str) -> Iterator[Path]:
    """Both places where versions of the library put the variant."""
    yield path / f"{stem}{suffix}.index{variant}.json"
    if variant:
        yield path / f"{stem}{variant}{suffix}.index.json"


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(index, "has no weight_map, which names the file of each tensor")
    names = set(weight_map.values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in {"", ".", ".."}:
            raise ModelError(index, f"names {name!r:.80}, which is no file beside it")
    files = [index.parent / name for name in sorted(names)]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(index, f"{missing[0]}{more} of its {len(files)} files is missing")
    return files


def check_headers(path: Path) -> None:
    """Whether a component's weights are there, and what safetensors headers say is sound. Raises ModelError."""
    for file in find_weights(path):
        if file.suffix == ".safetensors":
            read_header(file)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name. Raises ModelError, however the file is broken."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(64)
            length = int.from_bytes(head[:8], "little")
            _check_length(file, head, length, size)
            stream.seek(8)
            header = json.loads(stream.read(length))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(file, f"cannot be read: its header is no JSON ({reason})") from None
    if not isinstance(header, dict):
        raise ModelError(file, "cannot be read: its header is no JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ModelError(file, f"has {len(header)} tensors, at most {MAX_TENSORS} are read")
    _check_offsets(file, header, size - 8 - length)
    return {
        name: TensorInfo(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _check_length(file: Path, head: bytes, length: int, size: int) -> None:
    if size < 8 or length > size - 8:
        for start, what in NO_WEIGHTS:
            if head.lstrip().startswith(start):
                raise ModelError(file, f"is not the weights but {what}")
        raise ModelError(file, f"cannot be read: a header of {length} bytes in a file of {size}; is it complete?")
    if length > MAX_HEADER:
        raise ModelError(file, f"has a header of {length} bytes, at most {MAX_HEADER} are read")


def _check_offsets(file: Path, header: Mapping[str, Any], data_size: int) -> None:
    """Tensors lie one behind the other, fill the file, and have the bytes that their shapes need."""
    try:
        places = sorted((*entry["data_offsets"], name) for name, entry in header.items())
        end = 0
        for start, stop, name in places:
            if start != end or type(stop) is not int or stop - start != _bytes(header[name], stop - start):
                raise ValueError
            end = stop
        if end != data_size:
            raise ValueError
    except (TypeError, KeyError, ValueError):
        detail = "cannot be read: its tensors do not fill it one behind the other; is it complete?"
        raise ModelError(file, detail) from None


def _bytes(entry: Mapping[str, Any], otherwise: int) -> int:
    """Of a tensor, by its shape; of a dtype that is not known here, `otherwise`."""
    if not all(type(side) is int and side >= 0 for side in entry["shape"]):
        raise ValueError
    size = SIZES.get(entry["dtype"])
    return otherwise if size is None else size * math.prod(entry["shape"])
