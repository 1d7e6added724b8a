"""Webhooks: what a receiver is told of a job's end, by which signature, how often, and by whom when a gateway dies."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis
from standardwebhooks import WebhookVerificationError

from tests.receiver import HANG, OLD_SECRET, SECRET, Receiver, Told, receiving
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess, eventually
from worker.store.keys import Key

Start = Callable[..., Awaitable[httpx.AsyncClient]]
Workers = Callable[..., WorkerProcess]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def given(hosts: str, *, secret: str = SECRET, backoff: str = "0.05,0.05,0.05", **others: Any) -> dict[str, Any]:
    """Settings of a gateway that may call receivers on this machine."""
    return {
        "webhook_hosts": hosts, "webhook_secret": SecretStr(secret), "webhook_private": True,
        "webhook_backoff_s": backoff, **others,
    }  # fmt: skip


async def until(look: Callable[[], Any], patience_s: float = 15) -> Any:
    async with asyncio.timeout(patience_s):
        while not (found := look()):
            await asyncio.sleep(0.01)
    return found


async def submit(http: httpx.AsyncClient, url: str, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/txt2img", json={"prompt": "x", "model": "toy", "webhook": url, **fields})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def cancelled(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A job that nobody has taken, cancelled."""
    job = await submit(http, url)
    return dict((await http.delete(f"/v1/jobs/{job['id']}")).json())


async def counted(http: httpx.AsyncClient, outcome: str) -> float:
    text = (await http.get("/metrics")).text
    found = re.search(rf'^ldm_webhook_deliveries_total{{outcome="{outcome}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def nothing_waits(redis: Redis) -> bool:
    return not redis.exists(Key.WEBHOOKS) and not [*redis.scan_iter(f"{Key.WEBHOOKS_OF}*")]


ENDS = {"succeeded": "a boat", "failed": "break", "cancelled": "slow"}


@pytest.mark.parametrize("status", ENDS)
async def test_a_receiver_is_told_how_a_job_ended_as_the_job_itself_says_it(
    gateway: Start, start_worker: Workers, receiver: Receiver, redis: Redis, status: str
) -> None:
    start_worker()
    http = await gateway(**given(receiver.hosts()))
    made = await submit(http, receiver.url(), prompt=ENDS[status], steps=500 if status == "cancelled" else 4)
    if status == "cancelled":
        await http.delete(f"/v1/jobs/{made['id']}")
    (told,) = await until(lambda: receiver.told)
    job = (await http.get(f"/v1/jobs/{made['id']}")).json()
    assert told.verified() == {"type": f"job.{status}", "timestamp": job["finished_at"], "data": job}
    assert (told.path, told.headers["content-type"]) == ("/hook?token=s3cret", "application/json")
    assert job["request"]["webhook"] == f"http://{receiver.hosts()}"  # what follows it may be secret
    await until(lambda: nothing_waits(redis))
    assert len(receiver.told) == 1
    assert await counted(http, "delivered") == 1


async def test_the_first_attempt_follows_the_end_at_once(gateway: Start, receiver: Receiver, announced: None) -> None:
    http = await gateway(**given(receiver.hosts()))
    for _ in range(5):
        receiver.told.clear()
        job = await submit(http, receiver.url())
        begun = asyncio.get_running_loop().time()
        await http.delete(f"/v1/jobs/{job['id']}")
        await until(lambda: receiver.told)
        assert receiver.told[0].at - begun < 0.5


async def test_a_job_without_a_webhook_tells_nobody(gateway: Start, announced: None, redis: Redis) -> None:
    http = await gateway(**given("localhost"))
    job = (await http.post("/v1/txt2img", json={"prompt": "x"})).json()
    await http.delete(f"/v1/jobs/{job['id']}")
    assert nothing_waits(redis) and "webhook" not in job["request"]


async def test_each_secret_signs_and_others_do_not_hold(gateway: Start, receiver: Receiver, announced: None) -> None:
    http = await gateway(**given(receiver.hosts(), secret=f"{SECRET},{OLD_SECRET}"))
    await cancelled(http, receiver.url())
    (told,) = await until(lambda: receiver.told)
    assert told.verified(SECRET) == told.verified(OLD_SECRET)
    for headers in ({"webhook-id": "msg_other"}, {"webhook-timestamp": "1"}):
        with pytest.raises(WebhookVerificationError):
            Told(told.path, {**told.headers, **headers}, told.body).verified()
    with pytest.raises(WebhookVerificationError):
        told.verified("whsec_" + "a" * 32)


async def test_with_keys_it_has_signed_addresses(gateway: Start, receiver: Receiver, start_worker: Workers) -> None:
    start_worker()
    http = await gateway(**given(receiver.hosts(), api_keys=SecretStr("alice:ldm_alice-0123456789"), root_path="/ldm"))
    http.headers["Authorization"] = "Bearer ldm_alice-0123456789"
    await submit(http, receiver.url())
    (told,) = await until(lambda: receiver.told)
    (image,) = told.verified()["data"]["images"]
    assert image["signed_url"].startswith("/ldm/v1/jobs/")
    del http.headers["Authorization"]
    assert (await http.get(image["signed_url"])).status_code == 200


@pytest.mark.parametrize("status", [500, 302, 307, 404])
async def test_an_answer_that_is_no_yes_is_asked_again_under_the_same_id(
    gateway: Start, receiver: Receiver, announced: None, redis: Redis, status: int
) -> None:
    receiver.answers = [status, status]
    http = await gateway(**given(receiver.hosts()))
    await cancelled(http, receiver.url())
    told = await until(lambda: len(receiver.told) == 3 and receiver.told)
    assert len({(each.id, each.path, each.body) for each in told}) == 1  # and no redirect was followed
    assert all(each.verified() for each in told)
    await until(lambda: nothing_waits(redis))
    assert (await counted(http, "retried"), await counted(http, "delivered")) == (2, 1)


@pytest.mark.parametrize(("answers", "attempts"), [([410], 1), ([500] * 9, 4)])
async def test_who_is_gone_or_never_answers_well_is_given_up(
    gateway: Start, receiver: Receiver, announced: None, redis: Redis, caplog: pytest.LogCaptureFixture,
    answers: list[int], attempts: int,
) -> None:  # fmt: skip
    receiver.answers = [*answers]
    http = await gateway(**given(receiver.hosts()))
    job = await cancelled(http, receiver.url())
    await until(lambda: nothing_waits(redis))
    await asyncio.sleep(0.2)
    assert len(receiver.told) == attempts
    assert await counted(http, "given_up") == 1
    (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"it answered {answers[0]}, at attempt {attempts}" in said.getMessage()
    assert said.__dict__["job_id"] == job["id"] and "s3cret" not in caplog.text


async def test_it_is_given_up_when_the_job_expires_before_the_next_attempt(
    gateway: Start, receiver: Receiver, announced: None, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500]
    http = await gateway(**given(receiver.hosts(), backoff="60", result_ttl_s=50))
    await cancelled(http, receiver.url())
    await until(lambda: receiver.told and nothing_waits(redis))
    assert "expires before the next" in caplog.text


async def test_what_waits_for_a_job_that_is_gone_is_given_up(
    gateway: Start, receiver: Receiver, announced: None, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500]
    http = await gateway(**given(receiver.hosts(), backoff="0.5"))
    job = await cancelled(http, receiver.url())
    await until(lambda: receiver.told)
    redis.delete(Key.JOB.of(job["id"]))
    await until(lambda: "the job has expired" in caplog.text)
    assert nothing_waits(redis) and len(receiver.told) == 1


async def test_a_delivery_that_ended_every_gateway_before_is_given_up(
    gateway: Start, receiver: Receiver, announced: None, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500]
    http = await gateway(**given(receiver.hosts(), backoff="0.5"))
    job = await cancelled(http, receiver.url())
    while not await counted(http, "retried"):
        await asyncio.sleep(0.01)
    redis.hset(Key.JOB.of(job["id"]), "x_told", 7)
    await until(lambda: "came to its end" in caplog.text, 30)
    assert nothing_waits(redis) and len(receiver.told) == 1


async def test_who_hangs_is_asked_again_and_delays_nobody_else(
    gateway: Start, receiver: Receiver, announced: None, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    monkeypatch.setattr("service.webhooks.sender.ATTEMPT_S", 3.0)
    with receiving(*[HANG] * 6) as hanging:
        http = await gateway(**given(f"{receiver.hosts()},{hanging.hosts('127.0.0.1')}"))
        for _ in range(6):
            await cancelled(http, hanging.url("127.0.0.1"))
        await until(lambda: len(hanging.told) == 4)
        await cancelled(http, receiver.url())
        await until(lambda: receiver.told, 2.0)
        assert len(hanging.told) == 4  # as many at once to one host
        assert b"ldm_webhooks_waiting 6.0" in (await http.get("/metrics")).content
        await until(lambda: nothing_waits(redis))
    assert len(hanging.told) == 12
    assert await counted(http, "retried") == 6


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", b"no HTTP\r\n\r\n", b""])
async def test_an_answer_that_does_not_end_or_is_none_counts_as_a_failure(
    gateway: Start, announced: None, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr("service.webhooks.sender.ATTEMPT_S", 2.0)
    connections = []

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(answer)

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        http = await gateway(**given(f"localhost:{port}", backoff="0.05"))
        await cancelled(http, f"http://localhost:{port}/")
        await until(lambda: len(connections) == 2)
        for _ in range(100):
            if await counted(http, "given_up"):
                break
            await asyncio.sleep(0.02)
        assert (await counted(http, "retried"), await counted(http, "given_up")) == (1, 1)
        for writer in connections:
            writer.close()


async def test_an_endless_answer_is_not_read(gateway: Start, announced: None) -> None:
    written = 0

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                written += 65536
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        http = await gateway(**given(f"localhost:{port}"))
        await cancelled(http, f"http://localhost:{port}/")
        for _ in range(200):
            if await counted(http, "delivered"):
                break
            await asyncio.sleep(0.02)
        assert await counted(http, "delivered") == 1
    assert written < 2**24


async def test_nothing_is_sent_to_an_address_that_is_not_public(
    gateway: Start, receiver: Receiver, announced: None, caplog: pytest.LogCaptureFixture
) -> None:
    http = await gateway(**given(receiver.hosts("localhost", "127.0.0.1"), webhook_private=False))
    caplog.set_level(logging.INFO)
    for host in ("localhost", "127.0.0.1"):
        await cancelled(http, receiver.url(host, scheme="https"))
    await until(lambda: caplog.text.count("is not a public one") >= 2)
    assert not receiver.told
    assert await counted(http, "delivered") == 0


async def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(
    gateway: Start, receiver: Receiver, announced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test can own a name server, so the system's answers are replaced: each time another one."""
    asked, real = [], socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != "rebinds.example":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "192.0.2.1"
        return real(address, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    http = await gateway(**given(receiver.hosts("rebinds.example")))
    await cancelled(http, receiver.url("rebinds.example"))
    (told,) = await until(lambda: receiver.told)
    assert told.headers["host"] == receiver.hosts("rebinds.example")
    assert len(asked) == 1


async def test_two_gateways_share_the_work(gateway: Start, receiver: Receiver, announced: None, redis: Redis) -> None:
    first, second = [await gateway(**given(receiver.hosts())) for _ in range(2)]
    jobs = [await cancelled(http, receiver.url()) for http in (first, second) for _ in range(20)]
    await until(lambda: nothing_waits(redis))
    assert sorted(told.job_id for told in receiver.told) == sorted(job["id"] for job in jobs)
    done = [await counted(http, "delivered") for http in (first, second)]
    assert sum(done) == 40


async def test_openai_routes_take_it_too(gateway: Start, receiver: Receiver, start_worker: Workers) -> None:
    start_worker()
    http = await gateway(**given(receiver.hosts()))
    body = {"prompt": "a boat", "webhook": receiver.url(), "size": "8x8"}
    drawn = await http.post("/v1/images/generations", json=body)
    assert drawn.status_code == 200, drawn.text
    (told,) = await until(lambda: receiver.told)
    assert told.verified()["data"]["id"] == drawn.json()["job_id"]
    refused = await http.post("/v1/images/generations", json={**body, "webhook": "https://other.example/"})
    assert assert_problem(refused, 422)["error"]["param"] == "webhook"


async def test_no_proxy_of_the_environment_is_used(
    gateway: Start, receiver: Receiver, announced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    http = await gateway(**given(receiver.hosts()))
    await cancelled(http, receiver.url())
    assert await until(lambda: receiver.told)


async def test_times_are_those_of_the_job_and_of_the_attempt(
    gateway: Start, receiver: Receiver, announced: None
) -> None:
    receiver.answers = [500]
    http = await gateway(**given(receiver.hosts(), backoff="1.1"))
    await cancelled(http, receiver.url())
    first, second = await until(lambda: len(receiver.told) == 2 and receiver.told)
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    ended = datetime.fromisoformat(first.verified()["timestamp"]).timestamp()
    assert abs(ended - int(first.headers["webhook-timestamp"])) <= 1.5
    assert eventually(lambda: first.body == second.body)
