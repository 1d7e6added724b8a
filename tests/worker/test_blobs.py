"""Both stores keep the same promise."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from redis import Redis

from tests.worker.processes import eventually
from worker.store.blobs import BlobStore, DirectoryBlobs, RedisBlobs, open_blobs


@pytest.fixture(params=["directory", "redis"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, redis: Redis) -> BlobStore:
    return DirectoryBlobs(tmp_path / "blobs") if request.param == "directory" else RedisBlobs(redis)


def test_what_was_put_comes_back_until_it_is_deleted(blobs: BlobStore) -> None:
    blobs.put("job.image", b"\x00first", 60)
    blobs.put("job.image", b"\x00second", 60)
    assert blobs.get("job.image") == b"\x00second"
    blobs.delete("job.image", "job.mask")
    assert blobs.get("job.image") is None


def test_a_blob_expires(blobs: BlobStore) -> None:
    blobs.put("job.image", b"x", 0.05)
    blobs.put("job.mask", b"y", 60)
    eventually(lambda: blobs.sweep() >= 0 and blobs.get("job.image") is None)
    assert blobs.get("job.mask") == b"y"


@pytest.mark.parametrize("name", ["", "job", "../job.image", "job/.image", "job.image/../../x", ".image"])
def test_a_name_never_leaves_its_store(blobs: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a blob name"):
        blobs.get(name)


def test_the_sweeper_takes_what_expired_and_old_halves_and_nothing_else(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.put("job.old", b"x", -1)
    blobs.put("job.new", b"x", 60)
    fresh, stale = tmp_path / "jo" / ".fresh", tmp_path / "jo" / ".stale"
    for half in (fresh, stale):
        half.write_bytes(b"half")
    os.utime(stale, (time.time() - 3600,) * 2)
    assert blobs.sweep() == 2
    assert sorted(path.name for path in (tmp_path / "jo").iterdir()) == [".fresh", "job.new"]


def test_hosts_that_may_not_share_a_disk_share_redis(redis_url: str, tmp_path: Path) -> None:
    assert isinstance(open_blobs(redis_url, tmp_path), DirectoryBlobs)
    assert isinstance(open_blobs("redis://elsewhere:6379/0", tmp_path), RedisBlobs)
