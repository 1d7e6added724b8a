"""Counts what an image file is made of, before a decoder walks over it: its size says nothing of the work it makes.

A JPEG of 100 kB can hold ten thousand scans, each of which goes over all pixels again; a PNG can hold millions of
empty chunks, each of which becomes an object.
"""

from __future__ import annotations

import re

MAX_SCANS = 100  # encoders write about ten
MAX_PARTS = 20_000  # chunks of a PNG, segments of a JPEG; encoders write 8 kB and more into each
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # those left out stand among a scan's own data
END_OF_IMAGE, START_OF_SCAN = b"\xd9", b"\xda"


def too_many_parts(data: bytes) -> str | None:
    """What there is too much of, as a sentence without its subject; None for an ordinary image, or no image."""
    if data.startswith(JPEG_START):
        return _too_many_segments(data)
    if data.startswith(PNG_SIGNATURE):
        return _too_many_chunks(data)
    return None


def _too_many_segments(data: bytes) -> str | None:
    scans, at = 0, len(JPEG_START) - 1
    for _ in range(MAX_PARTS):
        marker = MARKER.search(data, at)
        if marker is None or marker[1] == END_OF_IMAGE:
            return None
        scans += marker[1] == START_OF_SCAN
        if scans > MAX_SCANS:
            return f"has more than {MAX_SCANS} scans"
        # a segment's content is skipped by its length: it may hold an image of its own
        at = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return f"has more than {MAX_PARTS} segments"


def _too_many_chunks(data: bytes) -> str | None:
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        if at >= len(data):
            return None
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return f"has more than {MAX_PARTS} chunks"
