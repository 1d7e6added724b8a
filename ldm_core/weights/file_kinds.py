"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

import codecs
import re
import zipfile
from enum import Enum
from pathlib import Path

from ldm_core.errors import ModelError

HEAD = 512  # bytes that are looked at; a tar names itself behind the 257th
SAFETENSORS_LENGTH = 8  # bytes that say how long the header is, which is JSON
MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it; the largest published ones have 300,000
MAX_TENSORS = 50_000  # a header names; Stable Diffusion has 1,400 with averages

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Table = tuple[tuple[re.Pattern[bytes], str], ...]


def _table(*rows: tuple[bytes, str]) -> Table:
    return tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE), what) for pattern, what in rows)


NOT_THE_FILE = _table(
    (rb"version https://git-lfs", "is a git-lfs pointer, not the file (git lfs pull fetches it)"),
    (
        rb"(\xef\xbb\xbf)?\s*(<!doctype html|<!--|<html|<head|<\?xml)",
        "is a web page, not the file; download that itself",
    ),
)
NOT_WEIGHTS = NOT_THE_FILE + _table(
    (rb"\x1f\x8b", "is packed with gzip; unpack it first"),
    (rb"BZh|\xfd7zXZ\x00|7z\xbc\xaf\x27\x1c|Rar!|\x28\xb5\x2f\xfd", "is a packed archive; unpack it first"),
    (rb".{257}ustar", "is a tar archive; unpack it first"),
    (rb"GGUF|GGML|ggjt", "is a GGUF file, whose quantised weights are not read"),
    (rb"\x08[\x01-\x0f]\x12.{1,40}?(\x1a|:|\x22)", "is an ONNX graph, not a checkpoint"),
    (rb"\x89HDF", "is an HDF5 file of Keras, not a checkpoint of PyTorch"),
    (rb"\x93NUMPY", "is a numpy array, not a checkpoint"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", "is an image, not a checkpoint"),
    (rb"\s*(\{|\[)", "is JSON, not a checkpoint"),
)


class Kind(Enum):
    """How a checkpoint is stored."""

    SAFETENSORS = "safetensors"
    ZIP = "zip"  # torch.save since 1.6
    PICKLE = "pickle"  # torch.save before


def kind_of(path: Path) -> Kind:
    """How this file is to be read. Raises ModelError, saying what it is, where it is no checkpoint."""
    head = _head(path)
    length = int.from_bytes(head[:SAFETENSORS_LENGTH], "little")
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return Kind.ZIP
    if pickled and (length > MAX_HEADER or head[SAFETENSORS_LENGTH : SAFETENSORS_LENGTH + 1] != b"{"):
        return Kind.PICKLE
    if head[SAFETENSORS_LENGTH : SAFETENSORS_LENGTH + 1] == b"{" and not head[:SAFETENSORS_LENGTH].isspace():
        _check_header(path, length)
        return Kind.SAFETENSORS
    refuse_by_head(path, head, NOT_WEIGHTS)
    if _is_text(head):
        raise ModelError(path, "is text, not a checkpoint")
    raise ModelError(path, "is no checkpoint: neither safetensors nor what torch.save writes")


def _is_text(head: bytes) -> bool:
    """UTF-8, whose last character the head may cut in two, without control characters but tabs and ends of lines."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD)
    except UnicodeDecodeError:
        return False
    return not CONTROL.search(text)


def refuse_by_head(path: Path, head: bytes, table: Table) -> None:
    """Raises ModelError with what the table says of a file that begins so."""
    for pattern, what in table:
        if pattern.match(head):
            raise ModelError(path, what)


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(path, "is a directory, not a checkpoint file")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except FileNotFoundError:
        raise ModelError(path, "is missing") from None
    except OSError as error:
        raise ModelError(path, f"cannot be read: {error.strerror or error}") from None
    if not head:
        raise ModelError(path, "is empty")
    return head


def _check_zip(path: Path) -> None:
    """That a zip file is whole and as torch.save writes it: one pickle, and weights that are not compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        raise ModelError(path, "is cut short or damaged: a zip file without its end; download it again") from None
    pickles = [item for item in items if re.fullmatch(r"[^/]+/data\.pkl", item.filename)]
    if len(pickles) != 1:
        raise ModelError(path, "is a zip archive, not a checkpoint; unpack it first")
    if any(item.filename.endswith("/constants.pkl") for item in items):
        raise ModelError(path, "is a TorchScript program, whose code is not run")
    if any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise ModelError(path, "has been compressed by a zip program; torch.save does not compress")
    if pickles[0].file_size > MAX_HEADER:
        raise ModelError(path, f"describes its weights in {pickles[0].file_size} bytes; at most {MAX_HEADER} are read")


def _check_header(path: Path, length: int) -> None:
    """That the header is there and of a size that can be read."""
    size = path.stat().st_size - SAFETENSORS_LENGTH
    if length > MAX_HEADER:
        raise ModelError(path, f"has a header of {length} bytes; at most {MAX_HEADER} are read")
    if length > size:
        raise ModelError(path, f"is cut short: its header has {length} bytes, {size} are there; download it again")
    with path.open("rb") as stream:
        stream.seek(SAFETENSORS_LENGTH)
        tensors = stream.read(length).count(b'"data_offsets"')
    if tensors > MAX_TENSORS:
        raise ModelError(path, f"names {tensors} tensors; at most {MAX_TENSORS} are read")
