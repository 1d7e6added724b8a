"""In which order finished images are decoded."""

from __future__ import annotations

import threading

from tests.worker.engine_kit import Kept, job
from worker.engine.owner_queue import OwnerQueue
from worker.engine.request import Finished


def test_owners_take_turns_and_keep_their_order() -> None:
    queue: OwnerQueue[str] = OwnerQueue()
    for item in ("a0", "a1", "a2", "b0", "a3", "c0", "b1"):
        queue.put(item[0], item)
    assert [queue.get() for _ in range(3)] == ["a0", "b0", "c0"]
    queue.put("c", "c1")
    assert [queue.get() for _ in range(5)] == ["a1", "b1", "c1", "a2", "a3"]
    assert queue.empty()


def test_a_closed_queue_gives_what_is_left_and_then_nothing() -> None:
    queue: OwnerQueue[str] = OwnerQueue()
    queue.put("a", "last")
    queue.close()
    assert [queue.get(), queue.get(), queue.get()] == ["last", None, None]


def test_who_waits_is_woken_by_an_item_and_by_the_end() -> None:
    queue: OwnerQueue[str] = OwnerQueue()
    got: list[str | None] = []
    thread = threading.Thread(target=lambda: got.extend([queue.get(), queue.get()]))
    thread.start()
    queue.put("a", "item")
    queue.close()
    thread.join(20)
    assert got == ["item", None]


def test_one_owners_many_images_hold_up_anothers_by_one_decode() -> None:
    kept = Kept()
    for i in range(12):
        kept.engine.submit(job(f"a{i}", owner="a", steps=1))
    while kept.engine.step():  # all of them wait to be decoded
        pass
    kept.engine.submit(job("b", owner="b", steps=1))
    kept.engine.step()
    kept.finish()
    ended = [event.key for event in kept.events if isinstance(event, Finished)]
    assert ended.index("b") == 1
    assert [name for name in ended if name != "b"] == [f"a{i}" for i in range(12)]


def test_a_backlog_of_one_owner_keeps_it_from_stepping_until_it_shrinks() -> None:
    kept = Kept()
    kept.engine.submit(job("a", owner="a", steps=1, n=8))
    for i in range(7):
        kept.engine.submit(job(f"a{i}", owner="a", steps=1, n=8))
    while kept.engine.step():
        pass
    steps = len(kept.batches)
    assert sum(rows for _, rows, _ in kept.batches) < 64 * 2
    kept.finish()
    kept.run_all()
    assert len(kept.batches) > steps
    assert all(isinstance(kept.outcome(name), Finished) for name in ("a", *(f"a{i}" for i in range(7))))
