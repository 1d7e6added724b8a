"""Writes PNG files: rows filtered as the specification advises, with numpy, and deflated by zlib-ng.

Deflating looks for runs alone (Z_RLE), which on filtered rows finds what there is. Against Pillow's default, 5 to 10
times as fast at 0.97 to 1.02 times its size; Pillow with the same strategy is 2 to 4 times as fast, because it filters
byte by byte (python -m benchmarks.png).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

Bytes = NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
EIGHT_BITS, RGB = 8, 2
ROWS = 64  # filtered at once, so that what is worked on stays in the processor's cache


def png(image: Image.Image, *texts: tuple[str, str]) -> bytes:
    """Encodes an RGB image; each of `texts` is the keyword and content of an iTXt chunk."""
    header = struct.pack(">IIBBBBB", *image.size, EIGHT_BITS, RGB, 0, 0, 0)
    parts = [SIGNATURE, _chunk(b"IHDR", header)]
    for keyword, content in texts:
        # no compression, no language, no translated keyword
        parts.append(_chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + content.encode()))
    deflate = zlib_ng.compressobj(level=1, memLevel=9, strategy=zlib_ng.Z_RLE)
    data = deflate.compress(filtered(np.asarray(image))) + deflate.flush()
    return b"".join([*parts, _chunk(b"IDAT", data), _chunk(b"IEND", b"")])


def filtered(pixels: Bytes) -> Bytes:
    """(H, W, C) → (H, 1 + W·C): each row's filter type, then the row by that filter.

    Of the four that predict, each row takes the one of least sum of absolute differences (PNG, third edition, 12.7).
    """
    height, width, channels = pixels.shape
    padded = np.zeros((height + 1, (width + 1) * channels), np.uint8)
    padded[1:, channels:] = pixels.reshape(height, -1)
    result = np.empty((height, 1 + width * channels), np.uint8)
    for first in range(0, height, ROWS):
        above, here = padded[first : first + ROWS + 1][:-1], padded[first + 1 : first + 1 + ROWS]
        raw, left, up, up_left = here[:, channels:], here[:, :-channels], above[:, channels:], above[:, :-channels]
        average = (left & up) + ((left ^ up) >> 1)  # of two bytes, rounded down, within a byte
        differences = np.stack([raw - left, raw - up, raw - average, raw - _paeth(left, up, up_left)])
        sizes = np.abs(differences.view(np.int8)).view(np.uint8).sum(axis=2, dtype=np.uint32)
        best = sizes.argmin(axis=0)
        rows = result[first : first + ROWS]
        rows[:, 0] = best + 1  # 0 is the filter that changes nothing
        rows[:, 1:] = differences[best, np.arange(len(raw))]
    return result


def _paeth(left: Bytes, up: Bytes, up_left: Bytes) -> Bytes:
    """Whichever of the three is nearest to left + up - up_left (Paeth 1991)."""
    to_left = up.astype(np.int16) - up_left
    to_up = left.astype(np.int16) - up_left
    to_up_left = np.abs(to_left + to_up)
    np.abs(to_left, out=to_left)
    np.abs(to_up, out=to_up)
    # masks of whole bytes: np.where goes element by element and takes most of the time
    nearest = up ^ ((up ^ up_left) & _mask(to_up > to_up_left))
    return nearest ^ ((nearest ^ left) & _mask(to_left <= np.minimum(to_up, to_up_left)))


def _mask(where: NDArray[np.bool_]) -> Bytes:
    """255 where true."""
    return np.negative(where.view(np.uint8))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
