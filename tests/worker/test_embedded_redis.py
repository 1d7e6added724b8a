"""The private Redis of `ldm serve`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.worker.processes import ROOT, eventually
from worker.process import embedded_redis
from worker.process.embedded_redis import EmbeddedRedis, RedisUnavailable, find_redis_server, socket_path
from worker.store.connection import connect


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def test_what_it_was_told_outlives_a_restart(server: EmbeddedRedis) -> None:
    with connect(server.url) as redis:
        redis.set("queued", "yes")
    server.stop()
    server.start()
    with connect(server.url) as redis:
        assert redis.get("queued") == b"yes"


def test_only_its_owner_may_connect(server: EmbeddedRedis) -> None:
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    with connect(server.url) as redis:
        assert redis.config_get("port") == {"port": "0"}


def test_a_directory_has_one_owner(server: EmbeddedRedis) -> None:
    second = EmbeddedRedis(server.directory)
    with pytest.raises(RedisUnavailable, match="--data-dir"):
        second.start()
    with connect(server.url) as redis:
        assert redis.ping()


def test_a_path_too_long_for_a_socket_moves_only_the_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    server = EmbeddedRedis(directory)
    server.start()
    try:
        assert len(os.fsencode(server.socket)) < 107
        assert server.socket == socket_path(directory)
        with connect(server.url) as redis:
            redis.set("k", "v")
    finally:
        server.stop()
        server.socket.parent.rmdir()
    assert any(directory.glob("appendonly*"))


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys; from worker.process.embedded_redis import EmbeddedRedis;"
        "EmbeddedRedis(pathlib.Path(sys.argv[1])).start(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "redis")], cwd=ROOT, check=False, timeout=30)

    def gone() -> bool:
        try:
            Redis(unix_socket_path=str(tmp_path / "redis" / "redis.sock")).ping()
        except (ConnectionError, embedded_redis.RedisError):
            return True
        return False

    eventually(gone)
    again = EmbeddedRedis(tmp_path / "redis")  # and leaves its lock behind open
    again.start()
    again.stop()


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SERVER", "/nowhere/redis-server")
    with pytest.raises(RedisUnavailable, match="/nowhere/redis-server"):
        find_redis_server()
