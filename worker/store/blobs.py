"""Images on their way in and out, kept beside the queue: in a directory on one host, in Redis for several. No torch.

A name is the job's id, a dot, and what it is: `ID.image`, `ID.mask`, `ID.EXECUTION.0`. Every blob has an expiry.
"""

from __future__ import annotations

import errno
import math
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import OutOfMemoryError

from worker.jobs import JobPayload
from worker.store import scripts
from worker.store.connection import connect
from worker.store.keys import Key

DISK_RESERVE = (0.1, 256 * 2**20)  # of the disk, and bytes: the less of both is kept free of new jobs' inputs
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
INPUT_TTL_S = 7 * 86400  # a queued job waits at most this long; its inputs go when it ends
NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


class BlobStore(Protocol):
    """Small immutable files with an expiry."""

    in_redis: bool  # whether blobs take Redis' memory

    def put(self, name: str, data: bytes, ttl_s: float, *, dear: bool = False) -> None:
        """Stores or replaces a blob, whole or not at all. A `dear` one may use what is kept free of others."""

    def get(self, name: str) -> bytes | None:
        """The blob, or None where there is none (any more)."""

    def full(self) -> str:
        """The reason for taking no more inputs, as a sentence, or an empty string."""

    def delete(self, *names: str) -> None:
        """Removes blobs; missing ones are ignored."""

    def sweep(self) -> int:
        """Removes expired blobs. Returns their number."""


def open_blobs(redis_url: str, data_dir: Path | str) -> BlobStore:
    """The store that fits: who speaks to Redis through a unix socket shares this host's disk, others may not."""
    if redis_url.startswith("unix:"):
        return DirectoryBlobs(Path(data_dir) / "blobs")
    return RedisBlobs(connect(redis_url))


def input_name(job_id: str, name: str) -> str:
    """An input image of a job, by its name in the payload."""
    return f"{job_id}.{name}"


def checkpoint_name(job_id: str) -> str:
    """A job's checkpoint. Executions are deterministic, so any of them may replace another's."""
    return f"{job_id}.checkpoint"


def blobs_of(payload: JobPayload) -> list[str]:
    """Everything that is kept for a job until it ends."""
    return [*(input_name(payload.id, name) for name in payload.inputs), checkpoint_name(payload.id)]


def output_name(job_id: str, execution: str, index: int) -> str:
    """Image `index` of one execution: a second execution writes beside it, never over it."""
    return f"{job_id}.{execution}.{index}"


class DirectoryBlobs:
    """Files under `root`; a file's modification time is the moment at which a sweep may delete it.

    Both times are of the file system's clock, so a wrong clock of a process does not matter.
    """

    in_redis = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sweeping = threading.Lock()
        self._swept_at = -math.inf  # monotonic

    def put(self, name: str, data: bytes, ttl_s: float, *, dear: bool = False) -> None:
        try:
            self._put(self._path(name), data, ttl_s)
        except OSError as error:
            if error.errno not in NO_SPACE or not self._make_room():
                raise
            self._put(self._path(name), data, ttl_s)

    def _put(self, path: Path, data: bytes, ttl_s: float) -> None:
        half = path.with_name(f".{uuid4().hex}")
        try:
            _write(half, data)
            expiry = half.stat().st_mtime + ttl_s
            os.utime(half, (expiry, expiry))
            half.rename(path)
        except BaseException:
            half.unlink(missing_ok=True)
            raise

    def _make_room(self) -> int:
        """Sweeps because the disk is full, at most once a second; how many files that deleted."""
        with self._sweeping:
            if time.monotonic() - self._swept_at < 1.0:
                return 0
            self._swept_at = time.monotonic()
            return self.sweep()

    def get(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def full(self) -> str:
        folder = next(path for path in (self.root, *self.root.parents) if path.exists())
        disk = os.statvfs(folder)
        share, most = DISK_RESERVE
        if disk.f_bavail * disk.f_frsize >= min(share * disk.f_blocks * disk.f_frsize, most) or self._make_room():
            return ""
        return "The disk that holds jobs and images is almost full."

    def delete(self, *names: str) -> None:
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def sweep(self) -> int:
        if not self.root.exists():
            return 0
        os.utime(self.root)  # to now, as the file system has it; takes no space
        now, count = self.root.stat().st_mtime, 0
        for path in self.root.glob("*/*"):  # half-written files too: their time is that of the write
            with suppress(FileNotFoundError):
                age = now - path.stat().st_mtime
                if age > (600 if path.name.startswith(".") else 0):
                    path.unlink()
                    count += 1
        return count

    def _path(self, name: str) -> Path:
        return self.root / checked(name)[:2] / name


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except FileNotFoundError:  # the first in its folder
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(data)


class RedisBlobs:
    """Keys with a TTL, in the queue's own Redis, which sweeps them itself."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis

    in_redis = True

    def put(self, name: str, data: bytes, ttl_s: float, *, dear: bool = False) -> None:
        key, ttl_ms = Key.BLOB.of(checked(name)), max(1, int(ttl_s * 1000))
        try:
            self.redis.set(key, data, px=ttl_ms)
        except OutOfMemoryError:
            if not dear:
                raise
            scripts.put.run(self.redis, data, key=key, ttl_ms=ttl_ms)

    def full(self) -> str:
        return ""  # Redis' memory is looked after by whoever makes jobs

    def get(self, name: str) -> bytes | None:
        return cast("bytes | None", self.redis.get(Key.BLOB.of(checked(name))))

    def delete(self, *names: str) -> None:
        if names:
            self.redis.unlink(*(Key.BLOB.of(checked(name)) for name in names))

    def sweep(self) -> int:
        return 0


def checked(name: str) -> str:
    """`name`, if it is one: it becomes part of a path."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a blob name")
    return name
