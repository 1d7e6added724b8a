"""Who gets the next free rows."""

from __future__ import annotations

from tests.worker.engine_kit import job
from worker.jobs import Priority
from worker.request import Request
from worker.scheduler import Scheduler


def queued(scheduler: Scheduler, name: str, priority: Priority, **changes: object) -> Request:
    request = Request(job(name, priority=priority, **changes))
    scheduler.add(request)
    return request


def admitted(scheduler: Scheduler, count: int) -> list[str]:
    return [run.request.job.id for run in scheduler.admit(count)]


def test_high_comes_before_normal_before_low() -> None:
    scheduler = Scheduler(max_rows=64)
    for name, priority in (("l", "low"), ("n", "normal"), ("h", "high")):
        queued(scheduler, name, priority)  # type: ignore[arg-type]
    assert admitted(scheduler, 3) == ["h", "n", "l"]


def test_nobody_waits_for_ever_behind_a_stream_of_higher_ones() -> None:
    scheduler = Scheduler(max_rows=1000)
    for i in range(64):
        queued(scheduler, f"h{i}", "high")
    queued(scheduler, "l", "low")
    queued(scheduler, "n", "normal")
    first = admitted(scheduler, 8)
    assert "n" in first
    assert "l" in first
    assert len([name for name in first if name.startswith("h")]) == 6


def test_rows_are_never_more_than_the_limit_and_are_free_again_after_a_removal() -> None:
    scheduler = Scheduler(max_rows=5)
    first = queued(scheduler, "a", "normal", n=2)
    queued(scheduler, "b", "normal")
    assert admitted(scheduler, 10) == ["a", "a"]
    assert scheduler.rows("scenes") == 4
    assert admitted(scheduler, 10) == []
    scheduler.remove(first)
    assert admitted(scheduler, 10) == ["b"]


def test_a_large_picture_is_not_overtaken_for_ever_by_small_ones() -> None:
    scheduler = Scheduler(max_rows=2)
    small = queued(scheduler, "small", "normal", guidance_scale=1.0)
    queued(scheduler, "guided", "normal")
    queued(scheduler, "small too", "normal", guidance_scale=1.0)
    assert admitted(scheduler, 10) == ["small"]  # one row is left, and kept for the one whose turn it is
    scheduler.remove(small)
    assert admitted(scheduler, 10) == ["guided"]
