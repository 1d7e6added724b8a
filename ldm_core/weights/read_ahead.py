"""Reads a large file beside the work that will want it, so that neither waits for the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIECE = 2**20  # bytes


@contextmanager
def reading_ahead(file: Path) -> Iterator[None]:
    """Brings a file into the page cache, in a thread that ends with the block. One that cannot be read is left be."""
    ended = threading.Event()

    def read() -> None:
        piece = bytearray(PIECE)
        with suppress(OSError), file.open("rb", buffering=0) as stream:
            while not ended.is_set() and stream.readinto(piece):
                pass

    thread = threading.Thread(target=read, name="read-ahead")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
