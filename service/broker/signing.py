"""What gateways sign URLs with: a secret that they share, and the clock of Redis."""

from __future__ import annotations

import secrets
import time
from typing import Any

from service.access.links import UrlSigner
from service.broker.clock import redis_now
from service.broker.single_flight import SingleFlight
from worker.store.keys import Key

BYTES = 32
BELIEVED_S = 1.0  # who deletes the secret in Redis, so that every signature ends, need not wait for long


class Signing:
    """One for all gateways of a Redis, whose secret the first one makes that needs it; it outlives every restart.

    Errors of Redis are raised as they are.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._shared = SingleFlight(self._read, BELIEVED_S)

    async def signer(self, ttl_s: int) -> UrlSigner:
        """Signs for `ttl_s` seconds, with the secret as of at most BELIEVED_S ago."""
        secret, ahead_s = await self._shared.get()
        return UrlSigner(secret, ttl_s, ahead_s)

    async def _read(self) -> tuple[bytes, float]:
        """The secret, and how far Redis' clock is ahead of the monotonic one here (s)."""
        while (known := await self._redis.get(Key.SIGNING)) is None:
            await self._redis.set(Key.SIGNING, secrets.token_bytes(BYTES), nx=True)  # another's may have come first
        return bytes(known), await redis_now(self._redis) - time.monotonic()
