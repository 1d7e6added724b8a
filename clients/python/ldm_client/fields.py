"""What the tasks take: the fields of the HTTP API, and the images that may be given for them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypedDict, Union


class Saves(Protocol):
    """A Pillow image."""

    def save(self, fp: Any, format: str) -> Any: ...  # noqa: A002 - Pillow's name


ImageInput = Union[str, "os.PathLike[str]", bytes, BinaryIO, Saves]
"""A path, the bytes of a PNG, JPEG or WebP, a file opened in binary, or a Pillow image."""


class Fields(TypedDict, total=False):
    """Of every task; what is left out, or None, is the model's default. `extra` has fields that this client lacks."""

    negative_prompt: str | None
    model: str | None
    steps: int | None
    sampler: str | None
    schedule: str | None
    guidance_scale: float | None
    guidance_start: float | None
    guidance_end: float | None
    eta: float | None
    seed: int | None
    n: int | None
    priority: Literal["low", "normal", "high"] | None
    format: Literal["png", "jpeg", "webp"] | None
    output_compression: int | None
    timeout: float | None
    upscale: bool | None
    webhook: str | None
    metadata: Mapping[str, str] | None
    idempotency_key: str | None
    extra: Mapping[str, Any] | None


class PromptFields(Fields, total=False):
    """Of a task that may have a prompt."""

    prompt: str | None


class SizedFields(Fields, total=False):
    """Of a task to which no image gives its size."""

    width: int | None
    height: int | None


class TextFields(SizedFields, total=False):
    """`neighbors` are images like the one wanted, for models that take some."""

    neighbors: Sequence[ImageInput] | None


class StrengthFields(Fields, total=False):
    """`strength` is how far to go from the image, 0 to 1."""

    strength: float | None


class Thing(TypedDict):
    """One thing of a layout; `box` is [x0, y0, x1, y1] as shares of width and height."""

    label: str | int
    box: Sequence[float]


def json_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a request: images in base64, what is None left out. Raises OSError where a file cannot be read."""
    body = {name: value for name, value in fields.items() if value is not None}
    body |= {name: base64_image(body[name]) for name in ("image", "mask", "map") if name in body}
    if "neighbors" in body:
        body["neighbors"] = [base64_image(image) for image in body["neighbors"]]
    return body


def base64_image(image: ImageInput) -> str:
    """Reads an image wholly, so that a retry can send it again."""
    return base64.b64encode(_read(image)).decode()


def _read(image: Any) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if hasattr(image, "save"):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()
    data = image.read() if hasattr(image, "read") else None
    if not isinstance(data, bytes):
        raise TypeError(f"an image is a path, bytes, a file opened in binary or a Pillow image, not {type(image)}")
    return data
