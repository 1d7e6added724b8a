"""Whose images a step has: by rows and priority inside an owner, by device time among owners."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from tests.worker.simulated import BEGIN_S, DECODE_S, ROW_S, Device
from worker.engine.request import Request
from worker.engine.scheduler import STEP_S
from worker.jobs import PRIORITIES

NATIVE_STEP_S = 2 * 64**2 * ROW_S
LARGE_STEP_S = 2 * 256**2 * ROW_S
LARGE = {"width": 256, "height": 256}


def alone_s(options: Mapping[str, int] = MappingProxyType({}), **changes: Any) -> float:
    """Seconds that a job takes on a device of its own that has run its size before."""
    device = Device(**options)
    device.seconds_of("before", **changes)
    return device.seconds_of("alone", **changes)


def counted(device: Device, steps: int) -> Counter[str]:
    """How many images each job had in so many steps."""
    first = len(device.steps)
    for _ in range(steps):
        device.step()
    return Counter(name for step in device.steps[first:] for name in step)


def warm(max_rows: int = 64, **options: Any) -> Device:
    """A device that has run the native size before."""
    device = Device(max_rows, **options)
    device.seconds_of("before", owner="somebody")
    return device


# one owner


def test_everybody_runs_where_there_are_rows_for_everybody() -> None:
    device = warm(max_rows=6)
    for name, priority in (("l", "low"), ("n", "normal"), ("h", "high")):
        device.submit(name, priority=priority)
    device.step()
    assert sorted(device.steps[-1]) == ["h", "l", "n"]


def test_the_more_urgent_ones_are_begun_first() -> None:
    device = warm(max_rows=6)
    for name, priority in (("l", "low"), ("n", "normal"), ("h", "high")):
        device.submit(name, priority=priority)
    assert [run.request.key for run in device.scheduler.choose(2)] == ["h", "n"]
    assert [run.request.key for run in device.scheduler.running] == ["h", "n"]


def test_high_pushes_low_aside_from_one_step_to_the_next_and_low_still_gets_its_steps() -> None:
    device = warm(max_rows=4)
    for name in ("l0", "l1"):
        device.submit(name, priority="low", steps=100)
    assert counted(device, 1) == {"l0": 1, "l1": 1}
    for name in ("h0", "h1"):
        device.submit(name, priority="high", steps=100)
    assert counted(device, 1) == {"h0": 1, "h1": 1}
    assert counted(device, 16) == {"h0": 12, "h1": 12, "l0": 4, "l1": 4}


def test_low_and_normal_get_their_steps_of_an_owner_who_alternates_with_another() -> None:
    """The turns of its priorities count an owner's own steps, not the device's."""
    device = warm(max_rows=2)
    device.submit("other", owner="other", steps=1000)
    for priority in ("low", "normal", "high"):
        device.submit(priority, priority=priority, owner="mine", steps=1000)
    assert counted(device, 160) == {"other": 80, "high": 60, "normal": 10, "low": 10}


def test_rows_are_never_more_than_the_limit_and_are_free_again_after_a_removal() -> None:
    device = warm(max_rows=5)
    first = device.submit("a", n=2)
    device.submit("b")
    device.step()
    assert device.steps[-1] == ["a", "a"]
    assert (device.scheduler.rows("scenes"), device.scheduler.free_rows()) == (4, -1)
    device.scheduler.remove(first)
    device.step()
    assert device.steps[-1] == ["b"]
    assert (device.scheduler.rows("scenes"), device.scheduler.free_rows()) == (2, 3)


def test_a_large_image_is_not_overtaken_for_ever_by_small_ones() -> None:
    device = warm(max_rows=2)
    small = device.submit("small", guidance_scale=1.0)
    device.submit("guided")
    device.submit("small too", guidance_scale=1.0)
    device.step()
    assert device.steps[-1] == ["small"]  # one row is left, and kept for the one whose turn it is
    device.scheduler.remove(small)
    device.step()
    assert device.steps[-1] == ["guided"]


def test_a_step_takes_no_longer_than_it_may_and_all_images_go_on_at_the_same_pace() -> None:
    device = warm()
    device.seconds_of("before that", steps=1, **LARGE)
    device.submit("large", n=4, steps=100, **LARGE)
    for i in range(20):
        device.submit(f"{i}", steps=100)
    counts, began = counted(device, 80), device.now
    assert counts["large"] / 4 == pytest.approx(counts["0"], abs=2)
    assert (device.now - began) / 80 <= max(STEP_S, LARGE_STEP_S)
    assert max(len(step) for step in device.steps) <= STEP_S / NATIVE_STEP_S + 1


def test_rows_that_a_call_has_anyway_are_filled_and_cost_nobody() -> None:
    """On a GPU a call has 16 rows, whoever is in it."""
    device = warm(call_rows=16)
    for i in range(40):
        device.submit(f"many{i}", owner="many", steps=1000)
    for _ in range(20):
        device.step()
    device.submit("few", owner="few", steps=50)
    device.run_until(lambda: "few" in device.ended)
    with_few = [step for step in device.steps if "few" in step]
    assert len(with_few) == 50
    assert {len(step) % 8 for step in with_few[1:]} == {0}  # full calls of 16 rows
    assert max(len(step) for step in with_few) <= 16  # one for its own sake, and one for the others'


# several owners


def test_owners_share_the_time_whoever_came_first() -> None:
    device = warm(max_rows=12)
    for i in range(100):
        device.submit(f"a{i}", owner="a", steps=1000)
    device.submit("b0", owner="b", steps=1000)
    device.submit("c0", owner="c", n=8, steps=1000)
    counts = Counter[str]()
    for name, times in counted(device, 90).items():
        counts[name[0]] += times
    assert max(counts.values()) - min(counts.values()) <= 2


def test_with_fewer_rows_than_owners_they_take_turns() -> None:
    device = warm(max_rows=2)
    for owner in "abc":
        device.submit(owner, owner=owner, steps=1000)
    assert counted(device, 30) == {"a": 10, "b": 10, "c": 10}


Attack = Callable[[Device], None]


def sends(count: int, of: Callable[[int], dict[str, Any]]) -> Attack:
    """So many jobs of owner a, all at once."""

    def attack(device: Device) -> None:
        for i in range(count):
            device.submit(f"a{i}", owner="a", **of(i))

    return attack


ATTACKS: dict[str, Attack] = {
    "many urgent jobs": sends(200, lambda i: {"priority": "high", "steps": 25}),
    "large images": sends(10, lambda i: {"n": 8, "steps": 1000, **LARGE}),
    "short urgent jobs": sends(400, lambda i: {"priority": "high", "steps": 1}),
    "new sizes": sends(20, lambda i: {"steps": 25, "width": 72 + 8 * i}),
    "large images of low priority": sends(10, lambda i: {"priority": "low", "n": 8, "steps": 3, **LARGE}),
    "many large and many small": sends(100, lambda i: {"steps": 2 + i % 3, **(LARGE if i % 2 else {})}),
    "one large image": sends(1, lambda i: {"steps": 1000, **LARGE}),
}


@pytest.mark.parametrize("when", [0, 1, 7, 40], ids="after {} steps".format)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_owner_waits_at_most_its_share_whatever_another_sends(attack: str, when: int) -> None:
    device = warm(first_s=2.0)
    ATTACKS[attack](device)
    for _ in range(when):
        device.step()
    assert device.seconds_of("b", owner="b", steps=25) <= 3 * alone_s(steps=25) + device.longest_s


@pytest.mark.parametrize("seed", range(20))
def test_and_whatever_another_sends_and_cancels_at_random(seed: int) -> None:
    rng = random.Random(seed)
    options = {"max_rows": rng.choice([16, 64]), "call_rows": rng.choice([1, 2, 16])}
    device = warm(first_s=rng.choice([0.0, 0.3, 2.0]), **options)
    sent: list[Request] = []

    def attack() -> None:
        for _ in range(rng.randint(1, 30)):
            fields = {"priority": rng.choice(PRIORITIES), "n": rng.choice([1, 1, 8]), "steps": rng.choice([1, 5, 1000])}
            size = {"width": rng.choice([32, 64, 64, 128, 256]), "height": rng.choice([32, 64, 256])}
            fields |= size | {"guidance_scale": rng.choice([1.0, 3.0])}
            sent.append(device.submit(f"a{len(sent)}", owner="a", **fields))

    def some_time(chance: float) -> None:
        device.step()
        if rng.random() < chance:
            attack()
            device.scheduler.remove(rng.choice(sent))

    attack()
    for _ in range(rng.randint(0, 40)):
        some_time(0.1)
    wanted = rng.choice([{"steps": 25}, {"steps": 1}, {"steps": 25, "n": 4}])
    began, device.longest_s = device.now, 0.0
    device.submit("b", owner="b", **wanted)
    while "b" not in device.ended:
        some_time(0.2)
    assert device.ended["b"] - began <= 3 * alone_s(options, **wanted) + device.longest_s


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_owner_that_sends_one_job_after_the_other_has_its_half_and_no_more(attack: str) -> None:
    device = warm()
    for size in range(64, 264, 8):
        device.seconds_of(f"size {size}", owner="somebody", steps=1, width=size, height=64)
    device.seconds_of("large", owner="somebody", steps=1, **LARGE)
    ATTACKS[attack](device)
    device.used.clear()
    times = [device.seconds_of(f"b{i}", owner="b", steps=25) for i in range(5)]
    assert sum(times) / 5 <= 3 * alone_s(steps=25) + LARGE_STEP_S
    if device.scheduler.has_work():
        assert device.used["a"] >= 0.5 * device.used["b"]


def test_the_large_images_go_on_beside_another_owners_stream_of_small_ones() -> None:
    device = warm()
    device.submit("large", owner="a", steps=25, **LARGE)
    for i in range(2000):
        device.submit(f"b{i}", owner="b", steps=10)
    largest = 2 * alone_s(steps=25, **LARGE) + STEP_S
    assert device.run_until(lambda: "large" in device.ended) <= largest + 10 * NATIVE_STEP_S


def test_three_owners_have_a_third_each() -> None:
    device = warm()
    ATTACKS["large images"](device)
    for i in range(100):
        device.submit(f"b{i}", owner="b", steps=100)
    assert device.seconds_of("c", owner="c", steps=25) <= 3 * alone_s(steps=25) + 2 * LARGE_STEP_S
    for i in range(3):
        device.submit(f"c{i}", owner="c", steps=1000)
    device.used.clear()
    device.run_until(lambda: sum(device.used.values()) > 30)
    assert max(device.used.values()) - min(device.used.values()) <= 2 * LARGE_STEP_S


def test_a_weight_is_a_share() -> None:
    device = warm()
    for i in range(10):
        device.submit(f"a{i}", owner="a", steps=1000, weight=8.0)
        device.submit(f"b{i}", owner="b", steps=1000)
    device.used.clear()
    counted(device, 500)
    assert device.used["a"] / device.used["b"] == pytest.approx(8, rel=0.1)


def test_an_owner_that_idled_has_saved_nothing() -> None:
    device = warm()
    device.seconds_of("early", owner="idle")
    device.submit("busy", owner="busy", steps=1000, n=8)
    device.run_until(lambda: device.now > 20)
    for i in range(10):
        device.submit(f"idle{i}", owner="idle", steps=1000)
    device.used.clear()
    counted(device, 100)
    assert device.used["busy"] == pytest.approx(device.used["idle"], rel=0.1)


def test_an_owner_that_leaves_and_comes_back_still_owes_what_it_used() -> None:
    """Or cancelling and sending again would be a way past one's share."""
    device = warm()
    device.submit("b", owner="b", steps=1000, n=8)
    device.used.clear()
    for i in range(300):
        large = device.submit(f"a{i}", owner="a", steps=1000, **LARGE)
        device.step()
        device.scheduler.remove(large)
    assert device.used["a"] <= device.used["b"] + LARGE_STEP_S


def test_a_backlog_of_finished_images_holds_up_its_owner_alone() -> None:
    device = warm()
    for i in range(400):
        device.submit(f"a{i}", owner="a", steps=1, guidance_scale=1.0)
    waiting = 0
    for _ in range(100):
        device.step()
        waiting = max(waiting, sum(name not in device.ended for step in device.steps for name in step))
    assert waiting < 100
    assert device.seconds_of("b", owner="b", steps=10) <= 3 * (10 * NATIVE_STEP_S + BEGIN_S + DECODE_S)
