"""Readings that many requests want at once."""

from __future__ import annotations

import asyncio

import pytest

from service.broker.single_flight import SingleFlight


class Reader:
    def __init__(self) -> None:
        self.times = 0
        self.error: Exception | None = None

    async def read(self) -> int:
        self.times += 1
        times = self.times
        await asyncio.sleep(0.02)
        if self.error:
            raise self.error
        return times


async def test_of_a_crowd_one_reads_and_all_have_its_answer() -> None:
    reader = Reader()
    shared = SingleFlight(reader.read, 60)
    assert await asyncio.gather(*(shared.get() for _ in range(50))) == [1] * 50
    assert await shared.get() == 1
    assert reader.times == 1


async def test_what_is_too_old_is_read_again() -> None:
    shared = SingleFlight(Reader().read, 0)
    assert [await shared.get(), await shared.get()] == [1, 2]


async def test_an_error_is_everybodys_and_is_not_kept() -> None:
    reader = Reader()
    shared = SingleFlight(reader.read, 60)
    reader.error = ConnectionError("away")
    answers = await asyncio.gather(*(shared.get() for _ in range(5)), return_exceptions=True)
    assert {str(answer) for answer in answers} == {"away"}
    reader.error = None
    assert await shared.get() == 2


async def test_who_hangs_up_ends_nobody_elses_reading() -> None:
    shared = SingleFlight(Reader().read, 60)
    first = asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    second = asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first
