"""The images of a request as a worker takes them: checked, upright, as PNG."""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from ldm_core.errors import InvalidImage

WHITESPACE = string.whitespace.encode()
MAX_DATA_URL_HEAD = 200  # characters
NOT_AN_IMAGE = "must be base64, a data: URL or a file part of multipart/form-data"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The images of a job as PNG, and the size, in pixels, of what will come out."""

    width: int
    height: int
    images: Mapping[str, bytes] = field(default_factory=dict)


def image_bytes(value: str | bytes, field: str) -> bytes:
    """A file part as it is, base64 or a data: URL decoded. Addresses are never fetched."""
    if isinstance(value, bytes):
        return value
    start = 0
    if value[:5].lower() == "data:":
        start = value.find(",", 0, MAX_DATA_URL_HEAD) + 1
        if not value[: max(start - 1, 0)].lower().endswith(";base64"):
            raise InvalidImage(field, "must be a data: URL in base64")
    try:
        # never split: of many short parts, each would be an object of fifty bytes
        return base64.b64decode(value[start:].encode("ascii").translate(None, WHITESPACE), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(field, NOT_AN_IMAGE) from None
