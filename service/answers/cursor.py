"""Where the next page of a list begins, as a string that tells a client nothing."""

from __future__ import annotations

import base64
import binascii
import math
import re

from service.errors import Problem

FORM = re.compile(r"[A-Za-z0-9_-]{4,64}")


def encode_cursor(before: float) -> str:
    """`before` is the time of the last job on the page."""
    return base64.urlsafe_b64encode(before.hex().encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> float:
    """Raises Problem for what is no cursor of ours."""
    try:
        if not FORM.fullmatch(cursor):
            raise ValueError(cursor)
        before = float.fromhex(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
        if not math.isfinite(before) or encode_cursor(before) != cursor:
            raise ValueError(cursor)
    except (binascii.Error, ValueError, OverflowError):
        detail = "must be the next_cursor of an answer"
        raise Problem(422, f"cursor: {detail}", errors=[("/cursor", detail)]) from None
    return before
