"""The rates of API keys, as Redis counts them."""

from __future__ import annotations

from typing import Any

from service.access.quota import Pace, Quota
from worker.store import scripts


class Rates:
    """The rates of all keys on one Redis; its errors are raised as they are."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def pace(self, owner: str, quota: Quota, *, spend: int = 0) -> Pace | None:
        """Where a key stands in its rate, of which `spend` jobs are taken first; None for a key without one."""
        if not quota.rate:
            return None
        told = await scripts.spend.arun(self._redis, owner=owner, rate=quota.rate, window=quota.window_s, cost=spend)
        wait_s, remaining, reset_s = (float(part) for part in told)
        return Pace(limit=quota.rate, remaining=int(remaining), reset_s=reset_s, wait_s=wait_s)
