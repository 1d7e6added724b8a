"""Many jobs, one after the other: memory does not grow, and when everything has expired nothing is left."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import islice

from tests.chaos.clients import Clients
from tests.chaos.figures import Figure, exactly
from tests.chaos.ledger import settle
from tests.chaos.service import Service, rss_mib
from tests.chaos.workload import orders
from tests.chaos.world import World
from tests.end_to_end.serving import eventually
from worker.leasing.heartbeat import SWEEP_EVERY

NAME = "soak"
GROWTH = 0.05
GRACE_S = 60  # an image may be fetched for a little longer than its job is known
QUICK = {"result_ttl_s": 5, "beat_s": 0.5}


def run(world: World) -> list[Figure]:
    early, late = world.scaled(200, 20), world.scaled(2000, 40)
    with world.service(**QUICK) as service:
        wanted = orders(late, world.seed, (1, 2))
        clients = Clients(service.url, retry_unclear=False)
        clients.submit_all(islice(wanted, early))
        settle(service)
        before = memory(service)
        keys = keys_after_expiry(service)
        clients.submit_all(wanted)
        settle(service)
        after = memory(service)
        left = keys_after_expiry(service)
        return [
            *(growth(part, before[part], after[part], early, late) for part in before),
            Figure(NAME, "keys in Redis after expiry", f"{len(keys)}, as after {early}", str(len(left)), left <= keys),
            exactly(NAME, "pictures on disk beyond their time", len(overstaying(service)), 0),
        ]


def keys_after_expiry(service: Service) -> set[bytes]:
    """What is in Redis when all jobs should be gone; or all that is left after a minute of waiting for it."""
    with suppress(AssertionError):
        eventually(lambda: not [*service.redis.scan_iter("rq:job:*"), *service.redis.scan_iter("rq:finished:*")], 60)
    return set(service.redis.scan_iter())


def growth(part: str, before: float, after: float, early: int, late: int) -> Figure:
    what = f"{part}'s RSS after {early} and {late} jobs"
    grown = after / before - 1
    return Figure(NAME, what, "+ 5 %", f"{before:.0f}, {after:.0f} MiB ({grown:+.1%})", grown <= GROWTH)


def memory(service: Service) -> dict[str, float]:
    gateway = service.gateway_pid()
    assert gateway is not None
    return {"worker": rss_mib(service.worker()), "gateway": rss_mib(gateway)}


def overstaying(service: Service) -> list[str]:
    """Images whose time was up two sweeps ago, and those that were given more time than they should have."""
    now = time.time()
    earliest, latest = now - 2 * SWEEP_EVERY * QUICK["beat_s"], now + QUICK["result_ttl_s"] + GRACE_S
    found = []
    for path in (service.data_dir / "blobs").glob("*/*"):
        with suppress(FileNotFoundError):  # swept at this moment
            found += [] if earliest < path.stat().st_mtime < latest else [path.name]
    return found
