"""Validates, decodes and normalises uploaded images. No torch.

An image's header is held against the limits before a single pixel is decoded. What is accepted goes on as 8-bit RGB,
upright, without metadata, so that a worker never meets anything else.

Pillow's warnings about recoverable damage are suppressed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping

from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError

from ldm_core.errors import InvalidImage
from ldm_core.images.parts import too_many_parts

warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("PNG", "JPEG", "WEBP")
DAMAGED = Exception  # Pillow's parsers raise whatever a file makes them stumble over: IndexError, AssertionError, ...
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # from there on Pillow opens no image
HALF_GREY = 128
TWO_MEANINGS = (
    "has white pixels and transparent ones, and both can mean repaint: send white = repaint on black without "
    "transparency, or a copy of the image that is transparent where it shall be repainted"
)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
MAX_ASPECT = 8  # of an image that is scaled by its shorter side
SizeCheck = Callable[[str, int, int], None]
Images = Mapping[str, Image.Image]  # the input images of a job: image, mask, neighbor0, ...


def open_image(data: bytes, field: str, check_size: SizeCheck) -> Image.Image:
    """Decodes a still PNG, JPEG or WebP to an upright RGB, or RGBA where it has transparency.

    `check_size(field, width, height)` raises InvalidImage from the header's size alone. Raises InvalidImage.
    """
    image = _opened(data, field)
    check_size(field, *image.size)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # many a phone's JPEG holds a second view
        raise InvalidImage(field, "is animated; only still images are taken")
    try:
        image.load()
        return _upright(_normal(image), _orientation(image))
    except DAMAGED:
        raise InvalidImage(field, "is truncated or damaged") from None


def text_of(data: bytes, field: str) -> dict[str, str]:
    """The texts in an image, such as a PNG's chunks, by their names. Raises InvalidImage."""
    texts = _opened(data, field).info.items()
    return {str(name): text for name, text in texts if isinstance(text, str)}


def check_equal(field: str, given: tuple[int, int], size: tuple[int, int]) -> None:
    """Raises InvalidImage where a mask's size is not its image's."""
    if given != size:
        raise InvalidImage(field, f"is {given[0]}x{given[1]}, the image is {size[0]}x{size[1]}; they must be equal")


def open_mask(data: bytes, field: str, size: tuple[int, int], *, by_alpha: bool = False) -> Image.Image:
    """Decodes a mask of exactly `size` to L: 255 where the image is repainted, 0 elsewhere. Raises InvalidImage.

    Repainted is what is at least half grey, or, in a mask that has transparent pixels, what is transparent: a copy of
    the image with a hole is a mask as OpenAI's image edit has it. White pixels beside transparent ones are refused, but
    `by_alpha`, where they are known to mean nothing.
    """

    def check_size(name: str, width: int, height: int) -> None:
        if sorted((width, height)) != sorted(size):  # upright, it may fit
            check_equal(name, (width, height), size)

    mask = open_image(data, field, check_size)
    check_equal(field, mask.size, size)
    hole = mask_of_transparency(mask)
    if hole is not None and hole.getbbox() is None and mask.getchannel("A").getextrema() != (255, 255):
        raise InvalidImage(
            field, "is half transparent: pixels count as transparent below half of full opacity, none is"
        )
    if hole is None or hole.getbbox() is None:
        return thresholded(flattened(mask, (0, 0, 0)).convert("L"))
    if not by_alpha and _is_black_and_white(mask, hole):
        raise InvalidImage(field, TWO_MEANINGS)
    return hole


def open_labels(data: bytes, field: str, check_size: SizeCheck, labels: int) -> Image.Image:
    """Decodes a semantic map to L, each pixel the id of a label: its grey level or palette index, below `labels`.

    Raises InvalidImage.
    """
    image = _opened(data, field)
    check_size(field, *image.size)
    if image.format != "PNG" or image.mode not in {"1", "L", "P"}:
        raise InvalidImage(field, "must be a PNG of 8-bit grey or palette, whose values are label ids")
    if getattr(image, "is_animated", False):
        raise InvalidImage(field, "is animated; only still images are taken")
    try:
        image.load()
        ids = Image.frombytes("L", image.size, image.tobytes()) if image.mode == "P" else image.convert("L")
    except DAMAGED:
        raise InvalidImage(field, "is truncated or damaged") from None
    highest = ids.getextrema()[1]
    if isinstance(highest, tuple) or highest >= labels:
        raise InvalidImage(field, f"has label id {highest}; this model knows 0 to {labels - 1}")
    return ids


def mask_of_transparency(image: Image.Image) -> Image.Image | None:
    """The mask that an image's transparent pixels make; None where it has none."""
    if image.mode != "RGBA":
        return None
    return thresholded(ImageOps.invert(image.getchannel("A")))


def _is_black_and_white(mask: Image.Image, hole: Image.Image) -> bool:
    """Whether the opaque pixels have no colour and some are white, as a brush leaves them."""
    red, green, blue, _ = mask.split()
    opaque = ImageOps.invert(hole)
    coloured = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
    white = ImageChops.darker(thresholded(green), opaque)
    return ImageChops.darker(coloured, opaque).getbbox() is None and white.getbbox() is not None


def flattened(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """RGB, with what is transparent laid over `background`."""
    if image.mode != "RGBA":
        return image
    opaque = Image.new("RGB", image.size, background)
    opaque.paste(image, mask=image.getchannel("A"))
    return opaque


def central_square(image: Image.Image, side: int) -> Image.Image:
    """The middle of an RGB image, scaled so that its shorter side is `side` pixels: how CLIP looks at images.

    A square of that side is left as it is. What is far from the middle of a strip is cut off first: scaled as a whole,
    a strip one pixel wide would take gigabytes.
    """
    across, down = (min(length, MAX_ASPECT * min(image.size)) for length in image.size)
    left, top = (image.width - across) // 2, (image.height - down) // 2
    image = image.crop((left, top, left + across, top + down))
    scale = side / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def to_png(image: Image.Image) -> bytes:
    """Encodes fast rather than small: it lives until the job has run."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _opened(data: bytes, field: str) -> Image.Image:
    if too_many := too_many_parts(data):
        raise InvalidImage(field, too_many)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise InvalidImage(field, "is not a PNG, JPEG or WebP image") from None
    except BOMB:
        raise InvalidImage(field, f"has more than {MOST_PIXELS} pixels, far more than any model takes") from None
    except DAMAGED:
        raise InvalidImage(field, "is truncated or damaged") from None


def _normal(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB or RGBA."""
    if image.mode.startswith("I"):  # 16 bits of grey; a plain conversion would clip instead of scale
        return image.convert("I").point(lambda level: level * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> object:
    """What EXIF says of it; damaged EXIF says nothing, for the pixels are what was sent."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the parser promises nothing about what it raises on a block that makes no sense
        return None


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def thresholded(grey: Image.Image) -> Image.Image:
    """255 where a level is at least half grey, else 0."""
    return grey.point(lambda level: 255 if level >= HALF_GREY else 0)
