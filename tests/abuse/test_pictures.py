"""Images made to hurt, through the HTTP route: refused with the field named, quickly, in little memory, or taken."""

from __future__ import annotations

import io
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from ldm_core.images.decoding import central_square, open_image
from ldm_core.images.parts import MAX_PARTS, MAX_SCANS, too_many_parts
from tests.abuse.corpus import animation, corpus, encoded, exif, gradient
from tests.abuse.gateway import Gateway
from tests.abuse.mutations import PNG_SIGNATURE, Chunks, chunk, png, png_chunks

SCAN = re.compile(rb"\xff\xda")
LOOP = b"Exif\0\0II*\0\x08\0\0\0" + b"\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0"  # its one entry: itself
MAX_MEMORY = 60 * 2**20  # more than a gateway takes for any of these, and less than what they would unfold to


def header(width: int, height: int, bits: int = 8, kind: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)


def zeros(megabytes: int) -> bytes:
    """So many megabytes of nothing, a thousandth as long."""
    squeezer, block = zlib.compressobj(9), bytes(2**20)
    return b"".join(squeezer.compress(block) for _ in range(megabytes)) + squeezer.flush()


def around(*extra: tuple[bytes, bytes]) -> bytes:
    """A sound PNG with chunks before its pixels."""
    first, *rest = png_chunks(encoded(gradient("RGB"), "PNG"))
    chunks: Chunks = [first, *extra, *rest]
    return png(chunks)


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: a byte more is a pass over all pixels more."""
    data = encoded(gradient("RGB", 64), "JPEG", progressive=True)
    last = data[[match.start() for match in SCAN.finditer(data)][-1] : -2]
    return data[:-2] + last * scans + data[-2:]


def vp8x(width: int, height: int) -> bytes:
    """A WebP that says a canvas and has nothing to put on it."""
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    content = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sizes
    return b"RIFF" + struct.pack("<I", len(content)) + content


def resized_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says another size."""
    data = encoded(gradient("RGB"), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "text that unfolds to 300 MB": (lambda: around((b"zTXt", b"a\0\0" + zeros(300))), "damaged"),
    "a profile that unfolds to 300 MB": (lambda: around((b"iCCP", b"a\0\0" + zeros(300))), "damaged"),
    "seventy texts of 1 MB": (lambda: around(*[(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9)))] * 70), "damaged"),
    "60000 x 60000": (lambda: png([header(60000, 60000), (b"IDAT", zeros(1))]), "pixels"),
    "12000 x 12000 of a bit": (lambda: png([header(12000, 12000, 1, 0), (b"IDAT", zeros(18))]), "12000"),
    "a size of nought": (lambda: png([header(0, 0), (b"IDAT", zeros(1)), (b"IEND", b"")]), ""),
    "2^31 across": (lambda: png([header(2**31 - 1, 1), (b"IDAT", zeros(1)), (b"IEND", b"")]), ""),
    "a JPEG of 65500 x 65500": (lambda: resized_jpeg(65500, 65500), "pixels"),
    "a JPEG of 8000 x 8000": (lambda: resized_jpeg(8000, 8000), "8000x8000"),
    "a WebP of 16383 x 16383": (lambda: vp8x(16383, 16383), ""),
    "a WebP of 2^24 x 256": (lambda: vp8x(2**24, 256), ""),
    "a JPEG of 10,000 scans": (lambda: many_scans(10_000), "scans"),
    "a PNG of 70,000 chunks": (lambda: PNG_SIGNATURE + chunk(b"abcd", b"") * 70_000, "chunks"),
    "a JPEG of 70,000 segments": (lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * 70_000, "segments"),
    "a JPEG of a megabyte of ones": (lambda: b"\xff\xd8" + b"\xff" * 1_000_000, ""),
    "an APNG of 300 frames": (lambda: animation("PNG", 300, 8), "animated"),
    "a WebP of 300 frames": (lambda: animation("WEBP", 300, 8), "animated"),
    "an APNG that says 2^31 frames": (lambda: around((b"acTL", struct.pack(">II", 2**31 - 1, 0))), "animated"),
    "a GIF by another name": (lambda: animation("GIF", 2), "not a PNG"),
    "a TIFF": (lambda: encoded(gradient("RGB"), "TIFF"), "not a PNG"),
    "an ICO with a PNG in it": (lambda: encoded(gradient("RGBA", 32), "ICO"), "not a PNG"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a PNG"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "not a PNG"),
    "a PNG that ends early": (lambda: encoded(gradient("RGB", 64), "PNG")[:110], "truncated"),
    "a JPEG that ends early": (lambda: encoded(gradient("RGB", 64), "JPEG")[:700], "truncated"),
    "a WebP that ends early": (lambda: encoded(gradient("RGB", 64), "WEBP")[:100], ""),
    "a palette picture without one": (lambda: png([header(9, 9, 8, 3), (b"IDAT", zeros(1))]), "damaged"),
    "a profile cut to two bytes": (lambda: around((b"iCCP", b"a\0")), ""),
}  # fmt: skip
TAKEN: dict[str, Callable[[], bytes]] = {
    "pixels that go on for 300 MB": lambda: png([header(24, 24), (b"IDAT", zeros(300)), (b"IEND", b"")]),
    "a broken profile": lambda: around((b"iCCP", b"a\0\0not compressed")),
    "a JPEG with a broken profile": lambda: encoded(gradient("RGB"), "JPEG", icc_profile=b"\xff" * 999),
    "broken EXIF": lambda: encoded(gradient("RGB"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "EXIF that points at itself": lambda: encoded(gradient("RGB"), "JPEG", exif=LOOP),
    "CMYK": lambda: encoded(gradient("CMYK"), "JPEG"),
    "16 bits of grey": lambda: encoded(gradient("I;16"), "PNG"),
    "a palette with transparency": lambda: encoded(gradient("P"), "PNG", transparency=bytes(range(16))),
    "two views in one file": lambda: encoded(gradient("RGB"), "MPO", save_all=True, append_images=[gradient("RGB")]),
}  # fmt: skip


def memory(gateway: Gateway) -> int:
    """The most that the process ever had in memory, in bytes."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def send(client: httpx.Client, data: bytes) -> httpx.Response:
    started = time.monotonic()
    answer = client.post("/v1/superres", files={"image": ("a.png", data)})
    assert time.monotonic() - started < 5
    return answer


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_made_to_hurt_is_refused(gateway: Gateway, client: httpx.Client, name: str) -> None:
    make, detail = REFUSED[name]
    data, before = make(), memory(gateway)
    answer = send(client, data)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/image"
    assert detail in error["detail"]
    assert memory(gateway) - before < MAX_MEMORY


@pytest.mark.parametrize("name", TAKEN)
def test_a_picture_that_is_only_odd_is_taken(gateway: Gateway, client: httpx.Client, name: str) -> None:
    before = memory(gateway)
    answer = send(client, TAKEN[name]())
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["width"] == 96
    assert memory(gateway) - before < MAX_MEMORY


def test_a_strip_as_a_neighbour_is_not_scaled_to_gigabytes(gateway: Gateway, client: httpx.Client) -> None:
    strip = encoded(Image.new("RGB", (65536, 1)), "PNG")
    before = memory(gateway)
    answer = client.post("/v1/txt2img", data={"prompt": "x", "model": "neighbourly"}, files={"neighbors": strip})
    assert answer.status_code == 202, answer.text
    assert memory(gateway) - before < MAX_MEMORY


def test_the_gateway_said_nothing_of_it_all(gateway: Gateway) -> None:
    assert not re.search(r"Traceback|Warning| 5\d\d ", gateway.log())


@pytest.mark.parametrize("size", [(3, 3), (7, 40), (300, 20), (20, 300), (1, 999)])
def test_a_central_square_is_one(size: tuple[int, int]) -> None:
    assert central_square(Image.new("RGB", size), 16).size == (16, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright(orientation: int) -> None:
    picture = Image.new("RGB", (32, 16), "white")
    picture.paste("red", (0, 0, 16, 8))
    data = encoded(picture, "JPEG", quality=95, exif=exif(orientation))
    upright = open_image(data, "image", lambda *_: None)
    corners = {1: (0, 0), 2: (-1, 0), 3: (-1, -1), 4: (0, -1), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}
    x, y = (length - 4 if at else 4 for at, length in zip(corners[orientation], upright.size, strict=True))
    assert upright.size == ((32, 16) if orientation < 5 else (16, 32))
    red, green, _ = upright.getpixel((x, y))  # type: ignore[misc]
    assert red > 200 > 60 > green


def test_ordinary_pictures_have_no_more_parts_than_are_allowed() -> None:
    assert [too_many_parts(data) for data in corpus()].count(None) == len(corpus())
    assert open_image(many_scans(MAX_SCANS - 20), "image", lambda *_: None).size == (64, 64)
    large = io.BytesIO()
    Image.effect_noise((2000, 2000), 90).save(large, "PNG")  # incompressible, in chunks of 64 kB at most
    assert len(png_chunks(large.getvalue())) < MAX_PARTS / 100
