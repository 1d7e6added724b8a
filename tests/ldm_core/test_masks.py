"""What a mask means: white on black, or a hole in a copy of the image."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from ldm_core.errors import InvalidImage
from ldm_core.images.decoding import open_mask, to_png

FILES = Path(__file__).parent / "openai_mask"
SIZE = (96, 64)


def opened(image: Image.Image | bytes) -> Image.Image:
    if isinstance(image, bytes):
        return open_mask(image, "mask", SIZE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return open_mask(buffer.getvalue(), "mask", SIZE)


def is_hole(mask: Image.Image) -> bool:
    hole = Image.open(FILES / "hole.png").convert("L")
    return ImageChops.difference(mask, hole).getbbox() is None


def test_a_copy_of_the_image_with_a_hole_is_repainted_in_the_hole() -> None:
    assert is_hole(opened((FILES / "mask.png").read_bytes()))


def test_black_with_a_hole_is_repainted_in_the_hole() -> None:
    hole = Image.open(FILES / "hole.png").convert("L")
    black = Image.new("RGBA", SIZE, (0, 0, 0, 255))
    black.putalpha(ImageChops.invert(hole))
    assert is_hole(opened(black))


def test_white_without_transparency_is_repainted() -> None:
    white = Image.open(FILES / "hole.png").convert("L")
    assert is_hole(opened(white))
    assert is_hole(opened(white.convert("RGBA")))


@pytest.mark.parametrize("outside", [True, False])
def test_white_beside_transparency_is_refused_for_it_has_two_meanings(outside: bool) -> None:
    hole = Image.open(FILES / "hole.png").convert("L")
    strokes = Image.new("RGBA", SIZE, (255, 255, 255, 255))
    strokes.putalpha(ImageChops.invert(hole) if outside else hole)
    with pytest.raises(InvalidImage, match="white pixels and transparent ones"):
        opened(strokes)
    with pytest.raises(InvalidImage, match="copy of the image"):
        opened((FILES / "mask_white.png").read_bytes())


def test_white_beside_transparency_means_nothing_where_transparency_alone_counts() -> None:
    strokes = Image.new("RGBA", SIZE, (255, 255, 255, 255))
    strokes.putalpha(ImageChops.invert(Image.open(FILES / "hole.png").convert("L")))
    assert is_hole(open_mask(to_png(strokes), "mask", SIZE, by_alpha=True))


def test_a_hole_that_is_less_than_half_transparent_is_refused() -> None:
    hole = Image.open(FILES / "hole.png").convert("L")
    faint = Image.open(FILES / "image.png").convert("RGBA")
    faint.putalpha(hole.point(lambda level: 255 - level // 2))  # 128 in the hole
    with pytest.raises(InvalidImage, match="half transparent"):
        opened(faint)
