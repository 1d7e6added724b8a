"""Whose pictures a step has."""

from __future__ import annotations

from collections import Counter

from tests.worker.engine_kit import job
from worker.jobs import Priority
from worker.request import Request
from worker.scheduler import Scheduler


def queued(scheduler: Scheduler, name: str, priority: Priority = "normal", **changes: object) -> Request:
    request = Request(job(name, priority=priority, **changes))
    scheduler.add(request)
    return request


def chosen(scheduler: Scheduler, begin_limit: int = 1000) -> list[str]:
    """The jobs of the next step, by picture."""
    scheduler.choose(begin_limit)
    return [run.request.job.id for run in scheduler.running]


def test_everybody_runs_where_there_are_rows_for_everybody() -> None:
    scheduler = Scheduler(max_rows=6)
    for name, priority in (("l", "low"), ("n", "normal"), ("h", "high")):
        queued(scheduler, name, priority)  # type: ignore[arg-type]
    assert chosen(scheduler) == ["l", "n", "h"]


def test_the_more_urgent_ones_are_begun_first() -> None:
    scheduler = Scheduler(max_rows=6)
    for name, priority in (("l", "low"), ("n", "normal"), ("h", "high")):
        queued(scheduler, name, priority)  # type: ignore[arg-type]
    assert [run.request.job.id for run in scheduler.choose(2)] == ["h", "n"]
    assert [run.request.job.id for run in scheduler.running] == ["n", "h"]


def test_high_pushes_low_aside_from_one_step_to_the_next_and_low_still_gets_its_steps() -> None:
    scheduler = Scheduler(max_rows=4)
    for name in ("l0", "l1"):
        queued(scheduler, name, "low")
    assert chosen(scheduler) == ["l0", "l1"]
    for name in ("h0", "h1"):
        queued(scheduler, name, "high")
    steps = [chosen(scheduler) for _ in range(16)]
    assert steps[0] == ["h0", "h1"]
    assert Counter(name for step in steps for name in step) == {"h0": 12, "h1": 12, "l0": 4, "l1": 4}


def test_owners_share_the_rows_of_their_priority_whoever_came_first() -> None:
    scheduler = Scheduler(max_rows=12)
    for i in range(100):
        queued(scheduler, f"a{i}", owner="a")
    queued(scheduler, "b0", owner="b")
    queued(scheduler, "c0", owner="c", n=8)
    steps = [chosen(scheduler) for _ in range(30)]
    assert {len(step) for step in steps} == {6}
    assert Counter(name[0] for step in steps for name in step) == {"b": 30, "a": 75, "c": 75}


def test_with_fewer_rows_than_owners_they_take_turns() -> None:
    scheduler = Scheduler(max_rows=2)
    for owner in "abc":
        queued(scheduler, owner, owner=owner)
    assert Counter(name for _ in range(30) for name in chosen(scheduler)) == {"a": 10, "b": 10, "c": 10}


def test_rows_are_never_more_than_the_limit_and_are_free_again_after_a_removal() -> None:
    scheduler = Scheduler(max_rows=5)
    first = queued(scheduler, "a", n=2)
    queued(scheduler, "b")
    assert chosen(scheduler) == ["a", "a"]
    assert (scheduler.rows("scenes"), scheduler.free_rows()) == (4, -1)
    scheduler.remove(first)
    assert chosen(scheduler) == ["b"]
    assert (scheduler.rows("scenes"), scheduler.free_rows()) == (2, 3)


def test_a_large_picture_is_not_overtaken_for_ever_by_small_ones() -> None:
    scheduler = Scheduler(max_rows=2)
    small = queued(scheduler, "small", guidance_scale=1.0)
    queued(scheduler, "guided")
    queued(scheduler, "small too", guidance_scale=1.0)
    assert chosen(scheduler) == ["small"]  # one row is left, and kept for the one whose turn it is
    scheduler.remove(small)
    assert chosen(scheduler) == ["guided"]
