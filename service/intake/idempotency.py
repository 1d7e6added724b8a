"""The Idempotency-Key header: what makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from ldm_core.params import Task
from service.access.quota import Idempotency
from service.errors import Problem
from service.intake.inputs import image_bytes
from service.intake.schemas import IMAGE_FIELDS, JobRequest

VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")


def read_key(headers: Sequence[str]) -> str | None:
    """The key that a client sent; None without one. Raises Problem."""
    if not headers:
        return None
    if len(headers) > 1 or not VISIBLE.fullmatch(headers[0]):
        raise Problem(400, "Idempotency-Key must be one string of 1 to 255 visible ASCII characters.")
    return headers[0]


def identify(key: str, owner: str, task: Task, body: JobRequest) -> Idempotency:
    """Hashes the key, and the request as sent, before defaults and a random seed: the same in JSON and multipart.

    Raises InvalidImage for an image in base64 that is none.
    """
    sent = body.model_dump(mode="python", exclude_unset=True)
    for field in IMAGE_FIELDS & sent.keys():
        sent[field] = _digest_of_images(sent[field], field)
    canonical = json.dumps([task, sent], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return Idempotency(key=_sha256(f"{owner}\0{key}".encode()), fingerprint=_sha256(canonical.encode()))


def _digest_of_images(value: Any, field: str) -> Any:
    match value:
        case str() | bytes():
            return _sha256(image_bytes(value, field))
        case list():
            return [_digest_of_images(item, f"{field}/{i}") for i, item in enumerate(value)]
    return value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
