"""A disk that is full: no new jobs, and everything by itself again once what has expired makes room."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from service.broker.upkeep import NoRoom
from tests.small_disk import fill, small_disk
from tests.worker.processes import ROOT, WorkerProcess, eventually, payload
from worker.process.embedded_redis import EmbeddedRedis
from worker.store.blobs import DirectoryBlobs

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def fill_with_results(blobs: DirectoryBlobs, ttl_s: float) -> int:
    """Images until the disk takes no more; how many those are."""
    for count in range(100):
        try:
            blobs.put(f"j{count}.x.0", b"x" * 2**20, ttl_s)
        except OSError:
            return count
    raise AssertionError("the disk is larger than it should be")


def test_what_has_expired_makes_room_for_what_is_written(disk: Path) -> None:
    blobs = DirectoryBlobs(disk / "blobs")
    count = fill_with_results(blobs, 1.5)
    with pytest.raises(OSError, match="No space"):
        blobs.put("late.x.0", b"x" * 2**20, 60)
    assert "disk" in blobs.full()
    time.sleep(2.5)
    blobs.put("late.x.0", b"x" * 2**20, 60)
    assert not blobs.full()
    assert len(list((disk / "blobs").glob("*/*"))) < count
    assert blobs.get("late.x.0") is not None


async def test_a_service_whose_disk_was_full_goes_on_by_itself(disk: Path) -> None:
    server = EmbeddedRedis(disk / "redis")
    server.start()
    broker = Broker(redis_url=server.url, data_dir=disk)
    worker = WorkerProcess(server.url, disk, drain_s=1)
    try:
        with Redis.from_url(server.url) as redis:
            eventually(lambda: redis.exists(f"ldm:worker:{worker.name}"))
        fill_with_results(DirectoryBlobs(disk / "blobs"), 3.0)
        fill(disk / "blobs" / "j0" / ".half")
        with pytest.raises((NoRoom, BrokerUnavailable), match=r"disk|queue"):
            await broker.submit(payload())
        (disk / "blobs" / "j0" / ".half").unlink()
        for _ in range(60):  # submits make room; Redis looks once a second whether its disk takes something
            await asyncio.sleep(0.5)
            try:
                sent = await broker.submit(payload("a boat"))
            except (NoRoom, BrokerUnavailable):
                continue
            break
        ended = await broker.wait(sent.view.payload.id, 20)
        assert ended is not None
        assert ended.status == "succeeded"
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
        await broker.close()
        server.stop()


def test_a_start_on_a_full_disk_says_so_and_waits_for_space(disk: Path, tmp_path: Path) -> None:
    server = EmbeddedRedis(disk / "redis")
    server.start()
    with Redis.from_url(server.url) as redis:
        redis.sadd("ldm:workers", *(f"gone-{i}" for i in range(300)))  # whose end is more than fits into a page
    server.stop()
    ballast = disk / "ballast"
    fill(ballast)
    log = tmp_path / "log"
    program = (
        "import sys; from worker.process.supervisor import Supervisor; from worker.settings import ServeSettings;"
        f"sys.exit(Supervisor(ServeSettings(data_dir={str(disk)!r}, port={free_port()}, metrics_port=0)).run())"
    )
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=output, stderr=output)
    try:
        eventually(lambda: "waiting for space" in log.read_text() or process.poll() is not None, 40)
        assert process.poll() is None, log.read_text()
        ballast.unlink()
        eventually(lambda: "gateway and worker are starting" in log.read_text(), 20)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
