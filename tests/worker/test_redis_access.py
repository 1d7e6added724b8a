"""A Redis with users, and one behind TLS: the whole way of a job with no more rights than are documented."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from service.broker import Broker
from tests.worker.processes import ROOT, WorkerProcess, eventually, payload
from worker.connection import connect
from worker.embedded_redis import EmbeddedRedis

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


async def run_a_job(url: str, data_dir: Path) -> None:
    """Submits, runs, cancels, lists, waits: what gateway and worker ever do, in processes of their own."""
    broker = Broker(redis_url=url, data_dir=data_dir)
    worker = WorkerProcess(url, data_dir)
    try:
        await broker.connect()
        job, slow = payload("a boat"), payload("slow", steps=500)
        await broker.submit(job)
        await broker.submit(slow)
        ended = await broker.wait(job.id, 20)
        assert ended is not None
        assert ended.status == "succeeded"
        assert await broker.image(job.id, 0) == b"a boat:7"
        cancelled = await broker.cancel(slow.id)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        assert [model.card.id for model in await broker.models()] == ["toy"]
        assert len((await broker.jobs(""))[0]) == 2
        assert await broker.queue_depths() == {("toy", "normal"): 0}
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
        await broker.close()
    assert "NOPERM" not in worker.log.read_text()


def refusals(url: str) -> None:
    with connect(url) as redis:
        for command in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("GET", "another:key"), ("ACL", "LIST")):
            with pytest.raises(NoPermissionError):
                redis.execute_command(*command)


async def test_the_documented_rights_are_enough_and_no_more(guarded: EmbeddedRedis, tmp_path: Path) -> None:
    url = guarded.url.replace("unix://", "unix://ldm:change-me@")
    await run_a_job(url, tmp_path)
    refusals(url)
    with pytest.raises(AuthenticationError):
        connect(guarded.url).ping()


@pytest.fixture
def tls_port(guarded: EmbeddedRedis, tmp_path: Path) -> Iterator[int]:
    """What a Redis with TLS looks like from outside: the same server behind an end of TLS."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
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
        except ssl.SSLError:  # a client that does not trust us
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


async def test_tls_with_a_password(tls_port: int, tmp_path: Path) -> None:
    trusted = f"ssl_ca_certs={tmp_path / 'cert.pem'}"
    await run_a_job(f"rediss://ldm:change-me@localhost:{tls_port}/0?{trusted}", tmp_path)


async def test_a_certificate_that_nobody_trusts_is_refused(tls_port: int, tmp_path: Path) -> None:
    worker = WorkerProcess(f"rediss://ldm:change-me@localhost:{tls_port}/0", tmp_path)
    try:
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log.read_text())
        assert "change-me" not in worker.log.read_text()
    finally:
        worker.kill()
