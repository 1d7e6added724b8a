"""A Redis with users, and one behind TLS: the whole way of a job with no more rights than are documented."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from service import app
from service.access.quota import Idempotency, Quota
from service.answers.event_stream import event_stream
from service.broker.broker import Broker
from service.broker.webhooks import DONE
from service.settings import GatewaySettings
from tests.certificates import context_of_localhost
from tests.worker.processes import ROOT, WorkerProcess, eventually, payload
from worker.leasing.heartbeat import revoke
from worker.process.embedded_redis import EmbeddedRedis
from worker.store.connection import WrongDatabase, check_database, connect
from worker.store.keys import Key
from worker.vital import EXIT_BAD_SETTING

USERS = ROOT / "deploy/redis/users.acl"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis with the users of `deploy/redis/users.acl`."""
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    with Redis.from_url(server.url) as admin:
        for _, name, *rules in (line.split() for line in reversed(USERS.read_text().splitlines())):
            admin.execute_command("ACL", "SETUSER", name, *rules)
    yield server
    server.stop()


async def run_jobs(url: str, data_dir: Path) -> None:
    """Submits, runs, watches, cancels, lists, recovers: what gateway and worker ever do, in processes of their own."""
    broker = Broker(redis_url=url, data_dir=data_dir)
    workers = [WorkerProcess(url, data_dir)]
    try:
        await broker.connect()
        job, slow, lost = payload("a boat", owner="alice"), payload("slow", steps=500), payload("slow", steps=30)
        idempotency = Idempotency(key="a", fingerprint="b")
        quota = Quota(open_jobs=5, rate=10)
        await broker.submit(job, {"image": b"x"}, quota=quota, idempotency=idempotency)
        assert (await broker.submit(job, quota=quota, idempotency=idempotency)).view.payload.id == job.id
        assert await broker.remembered("alice", idempotency) is not None
        pace = await broker.rates.pace("alice", quota, spend=1)
        assert pace is not None
        assert pace.remaining == 8
        ended = await broker.wait(job.id, 20)
        assert ended is not None
        assert ended.status == "succeeded"
        assert await broker.image(job.id, 0) == b"a boat:7"
        await broker.submit(slow)
        events = event_stream(broker, slow.id, previews=True)
        assert [b"event: " in await anext(events) for _ in range(3)] == [True] * 3
        await events.aclose()
        cancelled = await broker.cancel(slow.id)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        await broker.cancel(job.id)  # deletes its images
        assert len((await broker.url_signer(60)).secret) == 32
        assert [model.card.id for model in await broker.models()] == ["toy"]
        assert len((await broker.jobs(""))[0]) == 1
        assert set((await broker.queue_depths()).values()) == {0}
        told = payload("a boat", webhook="https://hooks.example/")
        await broker.submit(told)
        await broker.wait(told.id, 20)
        (delivery,), _ = await broker.webhooks.claim(lease_s=20, room=1, each=1, running={})
        assert (delivery.job_id, await broker.webhooks.waiting()) == (told.id, 1)
        await broker.webhooks.settle(delivery, DONE)
        await broker.submit(lost)
        await eventually_running(broker, lost.id)
        workers[0].kill()
        with connect(url) as redis:
            for name in redis.smembers(Key.WORKERS):
                revoke(redis, name.decode())
        workers.append(WorkerProcess(url, data_dir))
        ended = await broker.wait(lost.id, 30)
        assert ended is not None
        assert ended.status == "succeeded"
        assert workers[1].stop() == 0
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.kill()
        await broker.close()
    assert not any("NOPERM" in worker.log.read_text() for worker in workers)


async def eventually_running(broker: Broker, job_id: str) -> None:
    deadline = time.monotonic() + 20
    while (job := await broker.job(job_id)) is None or job.status != "running":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


FORBIDDEN = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "SELECT 1", "SWAPDB 0 1", "MOVE ldm:open 1",
    "COPY ldm:open other", "RENAME ldm:open ldm:b", "DUMP ldm:open", "OBJECT ENCODING ldm:open", "SORT ldm:open",
    "CONFIG GET *", "ACL LIST", "ACL WHOAMI", "CLIENT LIST", "CLIENT KILL 1:1", "CLIENT PAUSE 1", "SCRIPT FLUSH",
    "SCRIPT KILL", "FUNCTION FLUSH", "FUNCTION LIST", "EVAL return(1) 0", "MONITOR", "SAVE", "BGREWRITEAOF", "SHUTDOWN",
    "REPLICAOF no one", "DEBUG JMAP", "LATENCY DOCTOR", "MEMORY STATS", "COMMAND", "PUBLISH rq:pubsub:a b",
    "PSUBSCRIBE *", "SUBSCRIBE other", "GET another:key", "SET rq b", "HGETALL other", "XREAD STREAMS other 0",
)  # fmt: skip


def refusals(url: str) -> None:
    for command in FORBIDDEN:
        with connect(url) as redis, pytest.raises(ResponseError) as refusal:
            redis.execute_command(*command.split(), NEVER_DECODE=True)
        # a Redis before version 7 has no functions
        unknown = command.startswith("FUNCTION") and "unknown command" in str(refusal.value)
        assert isinstance(refusal.value, NoPermissionError) or unknown, command


def test_every_command_of_a_script_is_a_right() -> None:
    rights = {rule[1:] for rule in USERS.read_text().split() if rule.startswith("+")}
    sources = [path.read_text() for path in (ROOT / "worker/store/lua").rglob("*.lua")]
    called = {command.lower() for source in sources for command in re.findall(r"\bcall\('([A-Z]+)'", source)}
    assert len(called) > 20
    assert called <= rights


def test_the_tool_of_rq_shows_its_queues(guarded: EmbeddedRedis) -> None:
    url = guarded.url.replace("unix://", "unix://ldm:change-me@")
    with connect(url) as redis:
        redis.sadd("rq:queues", "rq:queue:toy.normal")
    said = subprocess.run(
        [str(Path(sys.executable).parent / "rq"), "info", "--url", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    assert "toy.normal" in said.stdout


async def test_the_documented_rights_are_enough_and_no_more(guarded: EmbeddedRedis, tmp_path: Path) -> None:
    url = guarded.url.replace("unix://", "unix://ldm:change-me@")
    await run_jobs(url, tmp_path)
    refusals(url)
    with pytest.raises(AuthenticationError):
        connect(guarded.url).ping()


RIGHT, WRONG, NO_NAME = "unix://ldm:change-me@", "unix://ldm:hunter2@", "unix://"
REFUSED = {  # how the address begins, how it ends, and what is said of it
    "a database": (RIGHT, "?db=3", "Redis refuses database 3 of LDM_REDIS_URL"),
    "a password": (WRONG, "", "Redis refuses the name or password of LDM_REDIS_URL"),
    "no password": (NO_NAME, "", "Redis wants a password, LDM_REDIS_URL has none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_a_database_that_is_refused_ends_the_start_in_a_sentence(
    guarded: EmbeddedRedis, tmp_path: Path, command: str
) -> None:
    begin, end, sentence = REFUSED["a database"]
    url = guarded.url.replace("unix://", begin) + end
    env = os.environ | {"LDM_REDIS_URL": url, "LDM_DATA_DIR": str(tmp_path), "LDM_PORT": "9", "LDM_METRICS_PORT": "0"}
    started = [sys.executable, "-m", "service", command]
    said = subprocess.run(started, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (EXIT_BAD_SETTING, "", 1)
    assert sentence in said.stderr
    assert "change-me" not in said.stderr and str(guarded.socket) not in said.stderr


def test_a_database_that_does_not_exist_is_refused_and_a_redis_that_is_away_is_not(
    redis_url: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongDatabase, match="Redis refuses database 99 of LDM_REDIS_URL"):
        check_database(f"{redis_url}?db=99")
    check_database(f"{redis_url}?db=3")
    check_database(f"unix://{tmp_path}/nowhere?db=99")


@pytest.mark.parametrize("name", ["a password", "no password", "away"])
def test_a_worker_that_is_not_let_in_says_why_and_not_that_it_serves(
    guarded: EmbeddedRedis, tmp_path: Path, name: str
) -> None:
    begin, end, sentence = REFUSED.get(name, (NO_NAME, ".gone", "Redis is away ("))
    worker = WorkerProcess(guarded.url.replace("unix://", begin) + end, tmp_path)
    try:
        eventually(lambda: sentence in worker.log.read_text())
        time.sleep(1.0)  # of further tries
        assert worker.stop() == 0
        said = worker.log.read_text()
        assert said.count("\n") == 1 and "hunter2" not in said
    finally:
        worker.kill()


def test_a_running_worker_tells_a_redis_that_denies_it_from_one_that_is_away(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    worker = WorkerProcess(server.url, tmp_path, beat_s=0.2)
    try:
        with Redis.from_url(server.url) as admin:
            eventually(lambda: "serves toy" in worker.log.read_text())
            admin.config_set("requirepass", "hunter2")
            admin.client_kill_filter(_type="normal", skipme=True)
            eventually(lambda: REFUSED["no password"][2] + "; running jobs go on" in worker.log.read_text())
            admin.config_set("requirepass", "")
            eventually(lambda: "Redis is back" in worker.log.read_text())
        assert worker.stop() == 0
    finally:
        worker.kill()
        server.stop()


@pytest.fixture
def tls_port(guarded: EmbeddedRedis, tmp_path: Path) -> Iterator[int]:
    """What a Redis with TLS looks like from outside: the same server behind an end of TLS."""
    context = context_of_localhost(tmp_path)
    with socket.create_server(("localhost", 0)) as listener:
        threading.Thread(target=accept, args=(listener, context, guarded.socket), daemon=True).start()
        yield listener.getsockname()[1]


def accept(listener: socket.socket, context: ssl.SSLContext, path: Path) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(path))
        try:
            wrapped = context.wrap_socket(client, server_side=True)
        except OSError:  # a client that does not trust us, or hung up
            client.close()
            server.close()
            continue
        for source, target in ((wrapped, server), (server, wrapped)):
            threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:  # the other direction has closed them
        pass
    finally:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("through", ["a unix socket", "TCP"])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_gateway_that_is_refused_says_why_once_and_answers_503(
    guarded: EmbeddedRedis, tls_port: int, tmp_path: Path, name: str, through: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("service.broker.upkeep.SWEEP_S", 0.05)
    begin, end, sentence = REFUSED[name]
    url = guarded.url.replace("unix://", begin) + end
    if through == "TCP":
        url = f"{begin.replace('unix', 'rediss')}localhost:{tls_port}{end or '?'}&ssl_ca_certs={tmp_path / 'cert.pem'}"
    gateway = app.create_app(GatewaySettings(redis_url=url, data_dir=tmp_path))
    transport = httpx.ASGITransport(app=gateway)
    async with gateway.router.lifespan_context(gateway), httpx.AsyncClient(transport=transport) as client:
        for _ in range(3):
            answer = await client.post("http://localhost/v1/txt2img", json={"prompt": "x"})
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            assert (await client.get("http://localhost/readyz")).status_code == 503
            await asyncio.sleep(0.2)
    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert told.getMessage().startswith(sentence) and not told.exc_info


async def test_tls_with_a_password(tls_port: int, tmp_path: Path) -> None:
    trusted = f"ssl_ca_certs={tmp_path / 'cert.pem'}"
    await run_jobs(f"rediss://ldm:change-me@localhost:{tls_port}/0?{trusted}", tmp_path)


async def test_a_certificate_that_nobody_trusts_is_refused(tls_port: int, tmp_path: Path) -> None:
    worker = WorkerProcess(f"rediss://ldm:change-me@localhost:{tls_port}/0", tmp_path)
    try:
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log.read_text())
        assert "change-me" not in worker.log.read_text()
    finally:
        worker.kill()
