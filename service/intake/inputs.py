"""The images of a request as a worker takes them: checked, upright, as PNG."""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from PIL import Image

from ldm_core.card import ModelCard
from ldm_core.errors import InvalidImage, InvalidParameter
from ldm_core.images.decoding import (
    central_square,
    flattened,
    mask_of_transparency,
    open_image,
    open_labels,
    open_mask,
    to_png,
)
from service.intake.schemas import (
    NOT_AN_IMAGE,
    InpaintRequest,
    JobRequest,
    Semantic2ImgRequest,
    SizedRequest,
    SuperresRequest,
    Txt2ImgRequest,
)

WHITESPACE = string.whitespace.encode()
MAX_DATA_URL_HEAD = 200  # characters


@dataclass(frozen=True, slots=True)
class Inputs:
    """The images of a job as PNG, and the size, in pixels, of what will come out."""

    width: int
    height: int
    images: Mapping[str, bytes] = field(default_factory=dict)


def open_inputs(body: JobRequest, card: ModelCard) -> Inputs:
    """Raises RequestError for images that the model does not take."""
    match body:
        case InpaintRequest():
            return _inpainting(body, card)
        case SuperresRequest():
            image = flattened(open_image(image_bytes(body.image, "image"), "image", card.check_input_size))
            return Inputs(image.width * card.scale, image.height * card.scale, {"image": to_png(image)})
        case Semantic2ImgRequest():
            labels = open_labels(image_bytes(body.map, "map"), "map", card.check_input_size, card.label_count)
            return Inputs(*labels.size, {"image": to_png(labels)})
        case Txt2ImgRequest():
            return _txt2img(body, card)
        case SizedRequest():
            width, height = card.native_size
            return Inputs(body.width or width, body.height or height)
    raise TypeError(type(body))


def _txt2img(body: Txt2ImgRequest, card: ModelCard) -> Inputs:
    """The size is the image's, where there is one."""
    images = {f"neighbor{i}": to_png(image) for i, image in enumerate(_neighbors(body, card))}
    if body.image is None:
        width, height = card.native_size
        return Inputs(body.width or width, body.height or height, images)
    for name in ("width", "height"):
        if getattr(body, name) is not None:
            raise InvalidParameter(name, "does not go with an image, which gives the size")
    image = flattened(open_image(image_bytes(body.image, "image"), "image", card.check_input_size))
    return Inputs(*image.size, {"image": to_png(image), **images})


def _neighbors(body: Txt2ImgRequest, card: ModelCard) -> Iterator[Image.Image]:
    """The neighbors, at the size at which the model sees them."""
    given = body.neighbors or []
    if given and not card.max_neighbors:
        raise InvalidParameter("neighbors", f"model {card.id!r} takes none")
    if len(given) > card.max_neighbors:
        raise InvalidParameter("neighbors", f"must be at most {card.max_neighbors}, got {len(given)}")
    for i, data in enumerate(given):
        image = flattened(open_image(image_bytes(data, f"neighbors/{i}"), f"neighbors/{i}", card.check_max_pixels))
        yield central_square(image, card.neighbor_size)


def _inpainting(body: InpaintRequest, card: ModelCard) -> Inputs:
    image = open_image(image_bytes(body.image, "image"), "image", card.check_input_size)
    mask: Image.Image | None
    if body.mask is None:
        mask = mask_of_transparency(image)
        if mask is None:
            raise InvalidImage("mask", "is required, because the image has no transparent pixels")
        known = image.convert("RGB")
    else:
        mask = open_mask(image_bytes(body.mask, "mask"), "mask", image.size, by_alpha=body.mask_by_alpha)
        known = flattened(image)
    if mask.getextrema() == (0, 0):
        raise InvalidImage("mask", "has nothing to repaint: no pixel is at least half grey")
    return Inputs(*image.size, {"image": to_png(known), "mask": to_png(mask)})


def image_bytes(value: str | bytes, field: str) -> bytes:
    """A file part as it is, base64 or a data: URL decoded. Addresses are never fetched."""
    if isinstance(value, bytes):
        return value
    start = 0
    if value[:5].lower() == "data:":
        start = value.find(",", 0, MAX_DATA_URL_HEAD) + 1
        if not value[: max(start - 1, 0)].lower().endswith(";base64"):
            raise InvalidImage(field, "must be a data: URL in base64")
    try:
        # never split: of many short parts, each would be an object of fifty bytes
        return base64.b64decode(value[start:].encode("ascii").translate(None, WHITESPACE), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(field, NOT_AN_IMAGE) from None
