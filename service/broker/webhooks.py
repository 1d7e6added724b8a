"""What is to be told to the webhooks of ended jobs, as all gateways of a Redis share it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.broker.availability import available
from worker.store import scripts
from worker.store.keys import Key

DONE = -1.0  # instead of seconds to wait: there is no further attempt


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to tell a webhook of its job's end. `host` has its port where that is not the usual one.

    `attempt` counts from 1; 0: the job's record is gone, and with it the delivery.
    """

    host: str
    job_id: str
    attempt: int


class WebhookQueue:
    """The deliveries of one Redis. `due` is set when a job with a webhook has ended. Raises BrokerUnavailable."""

    def __init__(self, redis: Any, due: asyncio.Event) -> None:
        self._redis, self.due = redis, due

    async def claim(
        self, *, lease_s: int, room: int, each: int, running: Mapping[str, int]
    ) -> tuple[list[Delivery], float | None]:
        """Takes what is due for `lease_s` seconds: at most `room`, of each host at most `each` less its `running` ones.

        Also gives the seconds until another is due; None where none waits.
        """
        async with available():
            taken, later = await scripts.claim.arun(
                self._redis, lease=lease_s, room=room, each=each, running=dict(running)
            )
        found = [Delivery(host.decode(), job_id.decode(), attempt) for host, job_id, attempt in taken]
        return found, None if float(later) < 0 else float(later)

    async def settle(self, delivery: Delivery, wait_s: float) -> None:
        """Ends an attempt; the next one is due after `wait_s` seconds, if it is not DONE.

        Changes nothing where another gateway has taken the delivery since, because the lease had ended.
        """
        async with available():
            await scripts.settle.arun(
                self._redis, host=delivery.host, id=delivery.job_id, attempt=delivery.attempt, wait=wait_s
            )

    async def waiting(self) -> int:
        """How many deliveries have not come to their end."""
        async with available():
            hosts = await self._redis.zrange(Key.WEBHOOKS, 0, -1)
            async with self._redis.pipeline(transaction=False) as asked:
                for host in hosts:
                    asked.zcard(Key.WEBHOOKS_OF.of(host.decode()))
                return sum(await asked.execute()) if hosts else 0
