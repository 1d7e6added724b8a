"""The addresses of jobs as answers name them, and the signatures by which some of them work without an API key.

A signature is HMAC-SHA256 over a path and the second at which it ends. It covers neither the method nor the rest of the
query: only routes that read look at it, and what else a client may ask of them (`preview=1`) is its own choice.
"""

from __future__ import annotations

import hmac
import math
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field

from ldm_core.params import MAX_IMAGES
from service.access.auth import Forbidden

SIGNATURE = "signature"  # the name in a query
WRITTEN = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})", re.ASCII)  # the Unix second at which it ends, and the HMAC
PURPOSE = "ldm-service signed URL, version 1"  # the secret may come to sign other things


class BadSignature(Forbidden):
    """A signature that opens nothing, or nothing here."""


@dataclass(frozen=True, slots=True)
class UrlSigner:
    """`secret` is shared by all gateways of one Redis; a signature works for `ttl_s` seconds, and up to one more.

    Time is Redis' own, `ahead_s` beyond the monotonic clock here: a gateway whose clock is wrong makes no difference.
    """

    secret: bytes = field(repr=False)
    ttl_s: int
    ahead_s: float

    def sign(self, path: str) -> str:
        """A signature for `path`, which works from now on."""
        expires = math.ceil(self._now()) + self.ttl_s
        return f"{expires}.{self._mac(path, expires)}"

    def check(self, path: str, signature: str, others: Iterable[str] = ()) -> None:
        """Raises BadSignature. `others` are the paths that it may have been meant for, so that it can be said."""
        written = WRITTEN.fullmatch(signature)
        if written is None:
            raise BadSignature("the signature of this URL is damaged: it is none that this server could have made")
        expires, mac = int(written[1]), written[2]
        if not self._is_mac(path, expires, mac):
            if any(self._is_mac(other, expires, mac) for other in others):
                raise BadSignature("the signature of this URL is for another image or the events of the same job")
            raise BadSignature("the signature of this URL is wrong: this server made none such for it")
        if self._now() >= expires:
            raise BadSignature("the signature of this URL has expired; the job, asked with its API key, has new ones")

    def _now(self) -> float:
        return time.monotonic() + self.ahead_s

    def _is_mac(self, path: str, expires: int, mac: str) -> bool:
        return hmac.compare_digest(self._mac(path, expires), mac)

    def _mac(self, path: str, expires: int) -> str:
        digest = hmac.digest(self.secret, f"{PURPOSE}\n{path}\n{expires}".encode(), "sha256")
        return urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Links:
    """Paths under `root`, where clients see this server; with a `signer` some have signatures too.

    What is signed is the path without `root`: another proxy in front changes nothing.
    """

    root: str = ""
    signer: UrlSigner | None = None

    def job(self, job_id: str) -> str:
        """A job's own path."""
        return f"{self.root}/v1/jobs/{job_id}"

    def image(self, job_id: str, index: int) -> str:
        """An image's path, with a fresh signature where callers need a key."""
        path = f"{self.job(job_id)}/images/{index}"
        return self.signed("url", path).get("url", path)

    def signed(self, name: str, path: str) -> dict[str, str]:
        """A field of an answer: `path` with a fresh signature. None where callers need no key."""
        if self.signer is None:
            return {}
        return {name: f"{path}?{SIGNATURE}={self.signer.sign(path.removeprefix(self.root))}"}


def end_of(signature: str) -> float:
    """The Unix second at which a signature that holds ends."""
    return float(signature.partition(".")[0])


def signed_paths(job_id: str) -> list[str]:
    """Every path of a job that has signatures."""
    job = Links().job(job_id)
    return [f"{job}/events", *(f"{job}/images/{index}" for index in range(MAX_IMAGES))]
