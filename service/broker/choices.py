"""The model that each owner draws with where a request names none: web interfaces set it once, apart from requests."""

from __future__ import annotations

from typing import Any

from worker.store.keys import Key

KEEP_S = 30 * 24 * 3600  # since it was last asked for


class Choices:
    """The choices of all owners on one Redis; its errors are raised as they are."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def chosen(self, owner: str, model: str = "") -> str | None:
        """An owner's choice, which is `model` from now on if that is given; None without one."""
        key = Key.CHOICE.of(owner)
        if model:
            await self._redis.set(key, model, ex=KEEP_S)
            return model
        known = await self._redis.getex(key, ex=KEEP_S)
        return known.decode() if known else None
