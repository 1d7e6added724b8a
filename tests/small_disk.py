"""A disk of a few megabytes, where the system lets tests mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 24 * 2**20


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """Mounts 24 MB of memory as a disk; skips the test where that takes rights that it has not."""
    at.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", at], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill(path: Path) -> None:
    """Writes until nothing more goes onto the disk."""
    with path.open("ab", buffering=0) as ballast:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError:
                continue
