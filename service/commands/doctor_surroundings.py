"""Checks of what an installation runs with: settings, Redis, models, ports, disk, memory."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings
from redis.exceptions import RedisError

from service.access.auth import BadKeys, KeyRing
from service.commands.findings import Finding, error, ok, warning
from service.commands.unknown_settings import KINDS, KNOWN, unknown_settings
from service.settings import GatewaySettings
from worker.process.embedded_redis import EmbeddedRedis, RedisUnavailable, find_redis_server
from worker.settings import ServeSettings, WorkerSettings, read_settings
from worker.store.connection import connect
from worker.store.health import VOLATILE, Health
from worker.vital import EXIT_BAD_SETTING

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
MODELS_S = 300.0


def check_settings() -> Iterator[Finding]:
    """Every LDM_ variable is one that is read, and has a value that is taken."""
    found = [warning("settings", unknown.said, unknown.todo) for unknown in unknown_settings()]
    found += [error("settings", said, "correct it, or unset it") for said in _refused()]
    count = sum(name in KNOWN for name in os.environ)
    yield from found or [ok("settings", f"{count} LDM_ variables are set, all of them known" if count else "defaults")]


def _refused() -> Iterator[str]:
    """What the settings classes, and the API keys, say of bad values."""
    said = dict.fromkeys(line for kind in KINDS for line in _complaints(kind))
    yield from said
    if not said:
        gateway = GatewaySettings()
        try:
            KeyRing(gateway.api_keys.get_secret_value(), gateway.api_keys_file)
        except BadKeys as bad:
            yield str(bad)


def _complaints(kind: type[BaseSettings]) -> list[str]:
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.suppress(SystemExit):
        read_settings(kind)
    return told.getvalue().splitlines()


def _read(kind: Any) -> Any:
    """Settings; defaults where a bad value, which another line tells of, is in the way."""
    return kind() if not _complaints(kind) else kind.model_construct()


def check_redis() -> Iterator[Finding]:
    """That of LDM_REDIS_URL; where none is set, the one that `ldm serve` brings."""
    serve = _read(ServeSettings)
    if serve.redis_url:
        yield from _of_redis(serve.redis_url, "LDM_REDIS_URL")
        return
    try:
        program = find_redis_server()
        version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (RedisUnavailable, OSError, subprocess.SubprocessError) as broken:
        yield error("redis", str(broken), "Debian, Ubuntu: apt install redis-server")
        return
    embedded = EmbeddedRedis(serve.data_dir.expanduser() / "redis")
    if embedded.socket.exists():
        yield from _of_redis(embedded.url, "the one of `ldm serve`")
    else:
        yield ok("redis", f"`ldm serve` will start {program} ({' '.join(version.split()[:3])})")


def _of_redis(url: str, which: str) -> Iterator[Finding]:
    """Whether it answers, and is set up to keep what it is given."""
    try:
        with connect(url) as redis:
            said: Any = redis.info("server")
            health = Health.of(redis.info("memory"), redis.info("persistence"))
    except (RedisError, OSError) as broken:
        yield error("redis", f"{which} cannot be used: {broken}", "start it, or correct LDM_REDIS_URL")
        return
    name = f"{which}: Redis {said['redis_version']}"
    yield ok("redis", f"{name} answers, maxmemory-policy {health.policy}")
    if health.evicts:
        worse = error if health.maximum else warning
        yield worse("redis", health.evicts, "in redis.conf: maxmemory-policy noeviction")
    if not health.appends:
        yield warning("redis", VOLATILE, "in redis.conf: appendonly yes")
    if not health.writes:
        yield error("redis", "its disk does not take writes", "make room where Redis keeps its data")


def check_models() -> Iterator[Finding]:
    """The judgement of `ldm models`, in a process of its own."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "service", "models"], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=MODELS_S, check=False,
    )  # fmt: skip
    if done.returncode == EXIT_BAD_SETTING:
        yield error("models", "not looked at, because a setting is refused", "see settings")
        return
    for line in done.stdout.splitlines():
        yield ok("models", line)
    for line in done.stderr.splitlines():
        if done.returncode:
            yield error("models", line, "correct the directory, or take it out of LDM_MODEL")
        elif not line.startswith("ldm models: no worker"):
            yield warning("models", line, "none needed: its jobs say so in their warnings")
    if not done.stdout and not done.stderr:
        yield error("models", "there are none", "name some with LDM_MODEL, or install from a whole clone")


def check_ports() -> Iterator[Finding]:
    """Whether the ports of `ldm serve` are free, or ours already."""
    serve = _read(ServeSettings)
    yield _of_port(serve.host, serve.port, "LDM_PORT", "/healthz", b'"status"')
    if serve.metrics_port:
        yield _of_port("127.0.0.1", serve.metrics_port, "LDM_METRICS_PORT", "/metrics", b"ldm_")


def _of_port(host: str, port: int, setting: str, path: str, ours: bytes) -> Finding:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as taken:
        if _is_ours(host, port, path, ours):
            return ok("ports", f"{setting}={port}: an ldm-service listens there")
        return error("ports", f"{setting}={port} cannot be had: {taken.strerror}", f"set {setting} to another one")
    return ok("ports", f"{setting}={port} is free")


def _is_ours(host: str, port: int, path: str, ours: bytes) -> bool:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    try:
        with urllib.request.urlopen(f"http://{reachable}:{port}{path}", timeout=2) as answer:
            return ours in answer.read(2**20)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def check_disk() -> Iterator[Finding]:
    """Whether the data directory can be written to, and has room."""
    wanted = _read(ServeSettings).data_dir.expanduser().absolute()
    existing = next(path for path in (wanted, *wanted.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0")
    except OSError as refused:
        todo = "set LDM_DATA_DIR to a directory of yours, or change its rights"
        yield error("disk", f"{wanted} cannot be written to: {refused.strerror}", todo)
        return
    free = shutil.disk_usage(existing).free
    said, todo = f"{wanted} has {free / GIB:.1f} GiB of room", "make room, or set LDM_DATA_DIR to another disk"
    if free < GIB / 10:
        yield error("disk", said, todo)
    elif free < GIB:
        yield warning("disk", said, todo)
    else:
        yield ok("disk", said)


def check_memory() -> Iterator[Finding]:
    """Whether the models' weights, and what a step needs beside them, have room."""
    free = _free_memory()
    if free is None:
        return
    weights = sum(_weights(path) for path in _read(WorkerSettings).model_dirs)
    said = f"{free / GIB:.1f} GiB are free, the models' files take {weights / GIB:.1f} GiB"
    if free < 2 * weights + GIB / 2:
        yield warning("memory", said, "a worker may run out of it: serve fewer models, or end other programs")
    else:
        yield ok("memory", said)


def _weights(directory: Path) -> int:
    kinds = (".safetensors", ".bin")
    return sum(file.stat().st_size for file in directory.rglob("*") if file.suffix in kinds and file.is_file())


def _free_memory() -> int | None:
    """Bytes, within what a container may use; None: the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, most - used)
    return free
