"""Seeded damage to image files: blind, and with a PNG's chunks taken apart and their checksums made right again."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_NAMES = (
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"fdAT",
    b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"abcd",
)  # fmt: skip
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Chunks = list[tuple[bytes, bytes]]
Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutated(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """An image of the corpus after one to four mutations."""
    data = chance.choice(corpus)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        data = chance.choice(MUTATIONS)(chance, data, corpus)
    return data


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with the right length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(chunks: Chunks) -> bytes:
    return PNG_SIGNATURE + b"".join(chunk(name, data) for name, data in chunks)


def png_chunks(data: bytes) -> Chunks:
    """As many chunks as can be told apart."""
    found, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def flip_bits(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    damaged = bytearray(data)
    for _i in range(chance.randint(1, 16) if damaged else 0):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def flip_header_bits(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Where sizes, modes and tables are: a flipped bit says more there than among the pixels."""
    return flip_bits(chance, data[:64], corpus) + data[64:]


def cut(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: chance.randint(0, len(data))]


def cut_out(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first, last = sorted(chance.randint(0, len(data)) for _i in range(2))
    return data[:first] + data[last:]


def repeat(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first = chance.randint(0, len(data))
    last = min(len(data), first + chance.randint(1, 200))
    return data[:last] + data[first:last] * chance.randint(1, 50) + data[last:]


def splice(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """The head of one file and the tail of another."""
    other = chance.choice(corpus)
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def join(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    return data + chance.choice(corpus)


def edge_number(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Writes a number that is easily got wrong over a length, a size or an offset."""
    width, order = chance.choice((1, 2, 3, 4)), chance.choice((">", "<"))
    number = (chance.choice(EDGES) & (1 << 8 * width) - 1).to_bytes(width, "big" if order == ">" else "little")
    at = chance.randint(0, max(0, min(len(data), chance.choice((40, 200, 10**9))) - width))
    return data[:at] + number + data[at + width :]


def noise(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.randbytes(chance.randint(1, 64)) + data[at:]


def edit_chunks(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """A PNG whose checksums are right and whose chunks are not: what a checksum would have caught goes deeper."""
    if not data.startswith(PNG_SIGNATURE) or not (chunks := png_chunks(data)):
        return flip_bits(chance, data, corpus)
    at = chance.randrange(len(chunks))
    name, content = chunks[at]
    match chance.randrange(7):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(chance.randint(0, len(chunks)), chunks[at])
        case 2:
            chance.shuffle(chunks)
        case 3:
            chunks[at] = (chance.choice(CHUNK_NAMES), content)
        case 4:
            chunks.insert(at, (chance.choice(CHUNK_NAMES), chance.randbytes(chance.randint(0, 40))))
        case 5:
            chunks[at] = (name, edge_number(chance, content, corpus))
        case _:
            chunks[at] = (name, flip_bits(chance, content, corpus))
    return png(chunks)


def edit_pixels(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """A PNG whose compressed stream is sound and says something else: wrong filters, too little, too much."""
    chunks = png_chunks(data) if data.startswith(PNG_SIGNATURE) else []
    try:
        raw = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    except zlib.error:
        return edge_number(chance, data, corpus)
    raw = chance.choice((flip_bits, cut, repeat, noise))(chance, raw, corpus)
    rest = [part for part in chunks if part[0] not in {b"IDAT", b"IEND"}]
    return png([*rest, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_header_bits, cut, cut_out, repeat, splice, join, edge_number, noise, edit_chunks, edit_chunks,
    edit_pixels,
)  # fmt: skip
