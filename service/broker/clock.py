"""Redis' clock, by which gateways and workers agree whatever their own clocks say."""

from __future__ import annotations

from typing import Any


async def redis_now(redis: Any) -> float:
    """Unix seconds. Raises what Redis raises."""
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1e6)
