"""Ends a background task that talks to Redis."""

from __future__ import annotations

import asyncio
from typing import Any


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancels until the task has ended: redis-py swallows a cancellation that meets one of its time-outs."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
