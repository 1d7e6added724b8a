"""Clients that wait: how soon a cancel frees its rows, and five hundred at once on one gateway."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import httpx

from tests.chaos.figures import Figure, at_most, exactly
from tests.chaos.service import Service, rss_mib
from tests.chaos.steps import StepCounter
from tests.chaos.workload import Order, orders
from tests.chaos.world import World
from tests.end_to_end.serving import eventually

CANCELS = 8


def cancelling(world: World) -> list[Figure]:
    """Out of a full batch; a step is what the batch takes for one in that moment."""
    name = "cancel"
    took, step = [], []
    with world.service() as service:
        steps = StepCounter(service.redis_url)
        jobs = [service.submit(each.task, **each.body)["id"] for each in orders(CANCELS, world.seed, (900, 1000))]
        for job in jobs:
            eventually(lambda: len(steps.stepped_at[job]) > 10)  # noqa: B023
            times = steps.stepped_at[job][-8:]
            step.append(max(after - before for before, after in pairwise(times)))
            at = time.time()
            assert service.http.delete(f"/v1/jobs/{job}").json()["status"] == "cancelled"
            eventually(lambda: steps.ended_at[job])  # noqa: B023
            took.append(steps.ended_at[job][0] - at)
        steps.close()
    beyond = max(cancel - one for cancel, one in zip(took, step, strict=True))
    return [at_most(name, f"to the freed row, beyond a step, the slowest of {CANCELS}", 1000 * beyond, 100, " ms")]


def crowd(world: World) -> list[Figure]:
    """Every client holds a connection until its job is done."""
    name = "waiting clients"
    count = world.scaled(500)
    with world.service() as service:
        gateway = service.gateway_pid()
        assert gateway is not None
        before = rss_mib(gateway)
        peak, answers = asyncio.run(_all_at_once(service, gateway, list(orders(count, world.seed, (1, 2)))))
    good = sum(answer == "succeeded" for answer in answers)
    return [
        exactly(name, "clients that got their pictures", good, count),
        Figure(name, "gateway's RSS before, and at most", "", f"{before:.0f}, {peak:.0f} MiB"),
    ]


async def _all_at_once(service: Service, gateway: int, wanted: list[Order]) -> tuple[float, list[str]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=service.url, timeout=150, limits=limits) as http:

        async def one(order: Order) -> str:
            try:
                answer = await http.post(f"/v1/{order.task}", json=order.body, headers={"Prefer": "wait=120"})
            except httpx.TransportError as error:
                return type(error).__name__
            return str(answer.json().get("status"))

        waiting = asyncio.gather(*(one(order) for order in wanted))
        peak = 0.0
        while not waiting.done():
            peak = max(peak, rss_mib(gateway))
            await asyncio.sleep(0.2)
        return peak, await waiting
