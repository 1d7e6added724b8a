"""Images of web interfaces: scaled to the size that is asked for, and masks with soft borders or looked at closely."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps, PngImagePlugin

from ldm_core.errors import InvalidImage, InvalidParameter
from ldm_core.images.decoding import check_equal, flattened, open_image, text_of, thresholded, to_png
from service.intake.inputs import image_bytes

MAX_PIXELS = 2**24  # of an image that is scaled here; each model's own limit comes after it
STRETCH, CROP, FILL = 0, 1, 2  # `resize_mode`
SMOOTH = Image.Resampling.LANCZOS
Box = tuple[int, int, int, int]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Repainting:
    """What is repainted: of `base` the part in `box`, and of what is drawn there as much as `soft` says (L).

    Both as PNG: a client may wait for long, and many at once.
    """

    base: bytes
    soft: bytes
    box: Box

    def finished(self, drawn: Image.Image) -> Image.Image:
        """`base` with what was drawn. Pixels where the soft mask is black are the same as before."""
        base, soft = (Image.open(io.BytesIO(data)) for data in (self.base, self.soft))
        layer = base.copy()
        left, top, right, bottom = self.box
        layer.paste(drawn.resize((right - left, bottom - top), SMOOTH), (left, top))
        return Image.composite(layer, base, soft)


def cut_out(image: Image.Image, soft: Image.Image, box: Box, size: Size) -> tuple[bytes, bytes]:
    """The part in `box` and the hard mask that a model is given, as PNG of `size`."""
    part = image.crop(box).resize(size, SMOOTH)
    mask = soft.crop(box).resize(size, Image.Resampling.BILINEAR)
    return to_png(part), to_png(mask.point(lambda level: 255 if level else 0))


def open_upright(value: str, field: str) -> Image.Image:
    """An RGB image from base64. Raises InvalidImage."""
    return flattened(open_image(image_bytes(value, field), field, _check_pixels))


def open_white_mask(value: str, size: Size, *, invert: bool) -> Image.Image:
    """A mask from base64, L of 0 and 255: 255 where the image is repainted. Raises InvalidImage.

    In a mask with transparency, what is opaque is repainted: so do web interfaces' canvases draw.
    """
    mask = open_image(image_bytes(value, "mask"), "mask", _check_pixels)
    check_equal("mask", mask.size, size)
    has_hole = mask.mode == "RGBA" and mask.getchannel("A").getextrema() != (255, 255)
    grey = mask.getchannel("A") if has_hole else flattened(mask).convert("L")
    hard = thresholded(grey)
    hard = ImageOps.invert(hard) if invert else hard
    if hard.getbbox() is None:
        raise InvalidImage("mask", "has nothing to repaint: no pixel is white")
    return hard


def resized(image: Image.Image, size: Size, mode: int) -> Image.Image:
    """An image of `size`, by one of the three modes."""
    check_target(*size)
    if mode == STRETCH or image.size == size:
        return image.resize(size, SMOOTH)
    if mode == CROP:
        return ImageOps.fit(image, size, SMOOTH)
    scale = min(size[0] / image.width, size[1] / image.height)
    return _filled(
        image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), SMOOTH), size
    )


def _filled(image: Image.Image, size: Size) -> Image.Image:
    """The image in the middle, its borders drawn out to the edges."""
    left, top = (size[0] - image.width) // 2, (size[1] - image.height) // 2
    wide = Image.new(image.mode, (size[0], image.height))
    wide.paste(image.crop((0, 0, 1, image.height)).resize((left + 1, image.height)), (0, 0))
    last = image.crop((image.width - 1, 0, image.width, image.height))
    wide.paste(last.resize((size[0] - left, image.height)), (left, 0))
    wide.paste(image, (left, 0))
    filled = Image.new(image.mode, size)
    filled.paste(wide.crop((0, 0, size[0], 1)).resize((size[0], top + 1)), (0, 0))
    filled.paste(wide.crop((0, image.height - 1, size[0], image.height)).resize((size[0], size[1] - top)), (0, top))
    filled.paste(wide, (0, top))
    return filled


def softened(mask: Image.Image, blur: tuple[float, float]) -> Image.Image:
    """A mask with borders as soft as `blur`, in pixels across and down."""
    return mask.filter(ImageFilter.GaussianBlur(blur)) if any(blur) else mask


def closely(mask: Image.Image, padding: int, size: Size) -> Box:
    """The part of an image that its mask needs, with `padding`, in the shape of `size` where there is room."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    across = (max(0, left - padding), min(mask.width, right + padding))
    down = (max(0, top - padding), min(mask.height, bottom + padding))
    width, height = across[1] - across[0], down[1] - down[0]
    across = _grown(across, round(height * size[0] / size[1]), mask.width)
    down = _grown(down, round(width * size[1] / size[0]), mask.height)
    return across[0], down[0], across[1], down[1]


def _grown(span: tuple[int, int], wanted: int, limit: int) -> tuple[int, int]:
    length = min(limit, max(wanted, span[1] - span[0]))
    start = min(max(0, (span[0] + span[1] - length) // 2), limit - length)
    return start, start + length


def finished_png(data: bytes, text: str, finish: Callable[[Image.Image], Image.Image] | None) -> bytes:
    """A drawn PNG as `finish` leaves it. Its text `parameters`, if it has one, becomes `text`; it keeps its others."""
    drawn = Image.open(io.BytesIO(data))
    image = finish(drawn) if finish else drawn
    kept = PngImagePlugin.PngInfo()
    for name, value in drawn.info.items():
        if name == "parameters":
            kept.add_text(name, text)
        elif isinstance(value, str):
            kept.add_itxt(str(name), value)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=kept, compress_level=1)
    return buffer.getvalue()


def png_texts(value: str) -> dict[str, str]:
    """The texts in an image in base64. Raises InvalidImage."""
    return text_of(image_bytes(value, "image"), "image")


def check_target(width: int, height: int) -> None:
    """Raises InvalidParameter for a size that nothing is scaled to here."""
    if width * height > MAX_PIXELS:
        raise InvalidParameter("width", f"{width}x{height} has more than {MAX_PIXELS} pixels")


def _check_pixels(field: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImage(field, f"is {width}x{height}, more than {MAX_PIXELS} pixels")
