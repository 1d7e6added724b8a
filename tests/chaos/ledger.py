"""The books after a scenario: which jobs were promised, what became of each, and what was left lying about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.figures import Figure, exactly
from tests.chaos.service import Service
from tests.chaos.workload import Order
from tests.end_to_end.serving import eventually
from tests.worker.processes import nothing_is_left
from worker.store.blobs import open_blobs, output_name

References = Mapping[int, Sequence[str]]  # kind of order -> sha256 of its images


@dataclass(frozen=True, slots=True)
class Entry:
    """What Redis and the store of images know of one job. `stored`: the images are where they should be."""

    status: str
    successes: int
    sums: tuple[str, ...]
    stored: bool
    starts: int


def settle(service: Service, patience_s: float = 300) -> None:
    """Waits until no job is open any more."""
    eventually(lambda: service.redis_answers() and not service.redis.exists("ldm:open"), patience_s)


def entry(service: Service, job_id: str) -> Entry:
    """Straight from RQ's records, not through the gateway: it is the record that must be right."""
    record = service.redis.hgetall(f"rq:job:{job_id}")
    results = service.redis.xrange(f"rq:results:{job_id}")
    execution = record.get(b"x_exec", b"").decode()
    images = json.loads(record.get(b"x_images", b"[]"))
    blobs = open_blobs(service.redis_url, service.data_dir)
    pictures = [blobs.get(output_name(job_id, execution, i)) for i in range(len(images))]
    return Entry(
        status=record.get(b"status", b"gone").decode(),
        successes=sum(fields[b"type"] == b"1" for _, fields in results),
        sums=tuple(image["sha256"] for image in images),
        stored=[hashlib.sha256(data or b"").hexdigest() for data in pictures] == [image["sha256"] for image in images],
        starts=int(record.get(b"x_starts", 0)),
    )


def references(service: Service, wanted: Sequence[Order], accepted: Mapping[str, Order]) -> dict[int, tuple[str, ...]]:
    """The sums of an undisturbed run, by kind."""
    books = {order.kind: entry(service, job_id) for job_id, order in accepted.items()}
    assert all(book.status == "finished" and book.sums for book in books.values())
    assert {order.kind for order in wanted} == set(books)
    return {kind: book.sums for kind, book in books.items()}


def audit(scenario: str, service: Service, accepted: Mapping[str, Order], wanted: References) -> Iterator[Figure]:
    """Every acknowledged job succeeded once, with the bytes of the undisturbed run, and nothing is left of it."""
    books = {job_id: entry(service, job_id) for job_id in accepted}
    good = sum(book.status == "finished" and book.successes == 1 for book in books.values())
    equal = sum(book.stored and book.sums == wanted[accepted[job_id].kind] for job_id, book in books.items())
    yield exactly(scenario, "acknowledged jobs that succeeded once", good, len(accepted))
    yield exactly(scenario, "lost", sum(book.status != "finished" for book in books.values()), 0)
    yield exactly(scenario, "doubled", sum(book.successes > 1 for book in books.values()) + twice(accepted), 0)
    yield exactly(scenario, "jobs whose bytes equal the undisturbed run's", equal, len(accepted))
    yield Figure(scenario, "left in queues and registries", "nothing", *_left(service))


def twice(accepted: Mapping[str, Order]) -> int:
    """Orders for which two jobs were acknowledged."""
    return len(accepted) - len({order.key for order in accepted.values()})


def _left(service: Service) -> tuple[str, bool]:
    """Names what is still there."""
    if nothing_is_left(service.redis):
        return "nothing", True
    patterns = ("rq:queue:*", "rq:wip:*", "rq:execution*", "ldm:open")
    return ", ".join(key.decode() for each in patterns for key in service.redis.scan_iter(each)), False
