"""A job's events: its state first, then every change, last its end; over a socket, as clients read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from redis import Redis

from service.answers import event_stream as stream_module
from service.answers.event_stream import event_stream
from service.app import create_app
from service.broker.broker import Broker
from service.broker.events import EventReader
from service.settings import GatewaySettings
from tests.end_to_end.serving import free_port
from tests.worker.processes import WorkerProcess, payload
from worker.store.keys import Key

Start = Callable[..., WorkerProcess]
Event = tuple[str, str, dict[str, Any]]  # id, name, data


@pytest_asyncio.fixture
async def live(settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway behind a socket: within one process, answers are only whole."""
    config = uvicorn.Config(create_app(settings), port=free_port(), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{config.port}", timeout=30) as client:
        yield client
    server.should_exit = True
    await task


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """Reads as a browser does."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line and fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


async def follow(http: httpx.AsyncClient, url: str, last: str = "", until: int | None = None) -> list[Event]:
    """All events, or the first `until`, after which it hangs up."""
    found: list[Event] = []
    headers = {"Last-Event-ID": last} if last else {}
    async with http.stream("GET", f"{url}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        async for event in events_of(answer.aiter_lines()):
            found.append(event)
            if len(found) == until:
                break
    return found


async def submit(http: httpx.AsyncClient, prompt: str = "slow", **fields: Any) -> str:
    job = (await http.post("/v1/txt2img", json={"prompt": prompt, **fields})).json()
    assert job["urls"]["events"] == f"{job['urls']['self']}/events"
    return str(job["urls"]["self"])


def number(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-"))


async def test_a_job_is_followed_from_the_queue_to_its_end(
    live: httpx.AsyncClient, announced: None, start_worker: Start
) -> None:
    url = await submit(live, steps=30)
    following = asyncio.create_task(follow(live, url))
    await asyncio.sleep(0.2)
    start_worker()
    events = await following
    ids, names, data = zip(*events, strict=True)
    assert names[0] == names[1] == "status"
    assert [job["status"] for job in data[:2]] == ["queued", "running"]
    assert set(names[2:-1]) == {"progress"}
    assert len(names) > 10
    assert all(set(progress) == {"step", "steps", "progress"} for progress in data[2:-1])
    steps = [progress["step"] for progress in data[2:-1]]
    assert steps == sorted(set(steps))
    assert data[2]["progress"] == data[2]["step"] / 30
    assert names[-1] == "succeeded"
    assert data[-1] == (await live.get(url)).json()
    assert list(ids) == sorted(set(ids), key=number)


async def test_a_stream_opened_late_begins_with_the_present(live: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    url = await submit(live, steps=200)
    while (await live.get(url)).json()["step"] < 3:
        await asyncio.sleep(0.02)
    first, second = await follow(live, f"{url}", until=2)
    assert first[1] == "status"
    assert first[2]["status"] == "running"
    assert first[2]["step"] >= 3
    assert second[1] == "progress"
    await live.delete(url)
    ((_, name, job),) = await follow(live, f"{url}")
    assert name == job["status"] == "cancelled"


@pytest.mark.parametrize(("prompt", "name"), [("break", "failed"), ("x", "succeeded")])
async def test_the_last_event_is_named_after_the_final_status(
    live: httpx.AsyncClient, start_worker: Start, prompt: str, name: str
) -> None:
    start_worker()
    url = await submit(live, prompt)
    *_, (_, last, job) = await follow(live, url)
    assert last == job["status"] == name
    assert (job["error"] is None) == (name == "succeeded")


async def test_last_event_id_resumes_without_repeating(live: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    url = await submit(live, steps=60)
    seen = await follow(live, url, until=5)
    rest = await follow(live, url, last=seen[-1][0])
    assert rest[0][1] == "progress"
    assert rest[0][2]["step"] > seen[-1][2]["step"]
    assert all(number(event[0]) > number(seen[-1][0]) for event in rest)
    assert rest[-1][1] == "succeeded"
    ended = await follow(live, url, last=seen[0][0])
    assert [event[:2] for event in ended] == [rest[-1][:2]]  # the end has the same id whoever hears of it when


async def test_a_client_that_saw_the_end_is_told_not_to_come_back(live: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    url = await submit(live, "x")
    *_, (last, _, _) = await follow(live, url)
    assert (await live.get(f"{url}/events", headers={"Last-Event-ID": last})).status_code == 204
    assert len(await follow(live, url, last="nonsense")) == 1
    assert len(await follow(live, f"{url}")) == 1
    assert (await live.get(f"{url}/events?preview=1")).status_code == 200


async def test_a_client_that_hangs_up_leaves_nothing(live: httpx.AsyncClient, announced: None) -> None:
    async def becomes(wanted: int) -> bool:
        """Whether the gauge comes to it within some seconds."""
        for _ in range(200):
            text = (await live.get("/metrics")).text
            if f"ldm_event_listeners {wanted}.0" in text:
                return True
            await asyncio.sleep(0.02)
        return False

    url = await submit(live)
    async with live.stream("GET", f"{url}/events") as answer:
        lines = answer.aiter_lines()  # dropping it would hang up already
        await anext(lines)
        assert await becomes(1)
    assert await becomes(0)


async def test_silence_is_broken_by_comments(broker: Broker, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.05)
    job = payload()
    await broker.submit(job)
    events = event_stream(broker, job.id)
    assert (await anext(events)).startswith(b"id: ")
    assert [await anext(events) for _ in range(3)] == [b": still here\n\n"] * 3
    redis.delete(f"rq:job:{job.id}")
    async with asyncio.timeout(5):
        assert {event async for event in events} <= {b": still here\n\n"}


async def test_thousands_who_listen_share_the_connections_of_the_process(
    broker: Broker, redis: Redis, start_worker: Start
) -> None:
    job, idle = payload("slow", steps=40), payload(priority="low", model="other")
    await broker.submit(job)
    await broker.submit(idle)

    begun: set[asyncio.Task[Any] | None] = set()

    async def names(job_id: str) -> list[bytes]:
        found = []
        async for event in event_stream(broker, job_id):
            if event.startswith(b"id: "):
                found.append(event.split(b"\n")[1])
                begun.add(asyncio.current_task())
        return found

    waiting = [asyncio.create_task(names(idle.id)) for _ in range(2000)]
    following = [asyncio.create_task(names(job.id)) for _ in range(200)]
    most = 0
    async with asyncio.timeout(60):
        while len(begun) < len(waiting) + len(following):
            most = max(most, len(redis.client_list()))
            await asyncio.sleep(0.1)
        start_worker()
        while not all(task.done() for task in following):
            most = max(most, len(redis.client_list()))
            await asyncio.sleep(0.1)
    assert {task.result()[-1] for task in following} == {b"event: succeeded"}
    assert most < 60  # 32 of the broker, and those of the worker
    await broker.cancel(idle.id)
    assert {tuple(events) for events in await asyncio.gather(*waiting)} == {(b"event: status", b"event: cancelled")}
    assert not broker._events._watchers


async def test_a_stream_outlives_an_outage_of_the_reader(broker: Broker, redis: Redis, start_worker: Start) -> None:
    job = payload("slow", steps=40)
    await broker.submit(job)
    events = event_stream(broker, job.id)
    first = await anext(events)
    start_worker()
    await asyncio.sleep(0.2)
    redis.client_kill_filter(_type="normal", skipme=True)
    rest = [event async for event in events]
    assert b'"queued"' in first
    assert rest[-1].split(b"\n")[1] == b"event: succeeded"


async def test_who_waits_for_the_end_is_told_of_nothing_else(redis: Redis, redis_url: str) -> None:
    reader = EventReader(redis_url)
    reader.start()
    with reader.watch("a") as every, reader.watch("a", only_end=True) as end:
        while not await every.wait(0.05):  # it follows what comes after its start
            redis.xadd(Key.EVENTS, {"kind": "queued", "id": "a"})
        for kind in ("queued", "started", "end"):
            assert not end.moved
            every.clear()
            redis.xadd(Key.EVENTS, {"kind": kind, "id": "a"})
            assert await every.wait(10)
        assert await end.wait(10)
    await reader.close()


@pytest.mark.parametrize(
    "last", ["99999999999999-0", "18446744073709551615-18446744073709551615", "tomorrow", "1-", "-1"]
)
async def test_an_event_that_nobody_has_seen_yet_counts_as_none(
    live: httpx.AsyncClient, announced: None, last: str
) -> None:
    url = await submit(live)
    ((_, name, job),) = await asyncio.wait_for(follow(live, url, last, until=1), 10)
    assert (name, job["status"]) == ("status", "queued")
    await live.delete(url)
    ((end, name, _),) = await asyncio.wait_for(follow(live, url, last), 10)
    assert name == "cancelled"
    assert (await live.get(f"{url}/events", headers={"Last-Event-ID": end})).status_code == 204
