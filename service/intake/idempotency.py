"""The Idempotency-Key header: what makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anyio import to_thread
from fastapi import Request

from ldm_core.params import Task
from service.access.quota import Idempotency
from service.errors import Problem
from service.http.memory import LARGE
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


async def identified(request: Request, owner: str, data: Mapping[str, Any], jobs: int = 1) -> Idempotency | None:
    """The same of a request in another API's words, whose body `data` was; None without a key.

    `jobs`: that it makes; of several some could be made and others refused. Raises Problem for more than one.
    """
    if (key := read_key(request.headers.getlist("idempotency-key"))) is None:
        return None
    if jobs > 1:
        raise Problem(400, "Idempotency-Key goes with one image here: send a request, with a key, for each.")
    return await to_thread.run_sync(_identify_json, key, owner, [request.url.path, data], limiter=LARGE)


def _identify_json(key: str, owner: str, sent: Sequence[Any]) -> Idempotency:
    canonical = json.dumps(sent, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
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
