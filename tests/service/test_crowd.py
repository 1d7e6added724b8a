"""Many clients in the same instant, more than one gateway has connections to Redis."""

from __future__ import annotations

import asyncio

from service.broker import Broker
from tests.worker.processes import payload
from worker.connection import MAX_CONNECTIONS


async def test_a_crowd_waits_for_a_connection_instead_of_being_sent_away(broker: Broker) -> None:
    sent = await asyncio.gather(*(broker.submit(payload()) for _ in range(5 * MAX_CONNECTIONS)))
    assert {each.view.status for each in sent} == {"queued"}
