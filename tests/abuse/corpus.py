"""Valid images of every form that the door takes, as bytes: what mutations start from."""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image, PngImagePlugin

SIDE = 24
SMALL_ICC = b"\0\0\0\x80lcms" + bytes(120)  # the length of a profile's header, and nothing that a reader could use


def gradient(mode: str, side: int = SIDE) -> Image.Image:
    """An image in which rows and columns differ, so that compressed data has something to say."""
    across, down = Image.linear_gradient("L").rotate(90), Image.linear_gradient("L")
    bands = [band.resize((side, side)) for band in (across, down, across, down)]
    match mode:
        case "P":
            return Image.merge("RGB", bands[:3]).quantize(16)
        case "LA":
            return Image.merge("LA", bands[:2])
        case "RGBA" | "CMYK":
            return Image.merge(mode, bands)
        case "I;16":
            return bands[0].convert("I").point(lambda level: level * 257).convert("I;16")
    return Image.merge("RGB", bands[:3]).convert(mode)


def exif(orientation: int) -> bytes:
    """An EXIF block that turns the image."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = "a description"
    return block.tobytes()


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, form, **options)  # type: ignore[arg-type]
    return data.getvalue()


def animation(form: str, frames: int = 2, side: int = SIDE) -> bytes:
    """Frames that differ, or the encoders make one of them."""
    shades = [Image.new("RGB", (side, side), (i % 256, i // 256, 99)) for i in range(frames)]
    return encoded(shades[0], form, save_all=True, append_images=shades[1:])


def corpus() -> list[bytes]:
    """About fifty images: every mode, interlacing apart, with and without what may be attached to them."""
    return [*_pngs(), *_jpegs(), *_webps()]


def _pngs() -> Iterator[bytes]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield encoded(gradient(mode), "PNG")
        yield encoded(gradient(mode), "PNG", icc_profile=SMALL_ICC, exif=exif(6), dpi=(72, 72))
    for bits in (1, 2, 4):
        yield encoded(gradient("P"), "PNG", bits=bits)
    yield encoded(gradient("P"), "PNG", transparency=3)
    yield encoded(gradient("P"), "PNG", transparency=bytes(range(0, 160, 10)))
    yield encoded(gradient("RGB"), "PNG", transparency=(0, 0, 0))
    yield encoded(gradient("L"), "PNG", transparency=7)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "plain")
    text.add_text("b", "squeezed " * 20, zip=True)
    text.add_itxt("c", "größer " * 20, lang="de", tkey="c", zip=True)
    yield encoded(gradient("RGB"), "PNG", pnginfo=text)
    yield animation("PNG", 3)


def _jpegs() -> Iterator[bytes]:
    for mode in ("L", "RGB", "CMYK"):
        yield encoded(gradient(mode), "JPEG")
        yield encoded(gradient(mode), "JPEG", progressive=True, quality=30)
    for orientation in range(1, 9):
        yield encoded(gradient("RGB"), "JPEG", exif=exif(orientation))
    yield encoded(gradient("RGB"), "JPEG", icc_profile=SMALL_ICC, comment=b"a comment", restart_marker_blocks=1)
    yield encoded(gradient("RGB"), "MPO", save_all=True, append_images=[gradient("RGB")])


def _webps() -> Iterator[bytes]:
    for mode in ("RGB", "RGBA"):
        for lossless in (True, False):
            yield encoded(gradient(mode), "WEBP", lossless=lossless, quality=60)
            yield encoded(gradient(mode), "WEBP", lossless=lossless, exif=exif(3), icc_profile=SMALL_ICC, xmp=b"<x/>")
    yield animation("WEBP", 3)
