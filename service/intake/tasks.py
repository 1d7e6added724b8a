"""The request of each task: its fields, its images and the parameters that only it has.

A new task has its name in `ldm_core/params.py`, its first latents in `ldm_core/tasks.py`, its models in
`ldm_core/model_directory/card_reader.py` and its request here; its route, its form, its example and its place in the
OpenAPI follow from `REQUESTS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from PIL import Image
from pydantic import Field

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
from ldm_core.params import LayoutObject, Task
from service.intake.inputs import Inputs, image_bytes
from service.intake.schemas import DrawRequest, Fields, ImageData, JobRequest, Prompt, SizedRequest, either
from service.intake.vocabulary import MAX_NAME_CHARS

IMAGE = "PNG, JPEG or WebP: base64 or a data: URL in JSON, a file part in multipart/form-data"
MAX_CLASS_ID = 2**16
IMAGE_STRENGTH = 0.8  # of image to image, when the client does not say; diffusers' default
BASE64 = "iVBORw0KGgo…"  # stands for an image in the examples

Label = Annotated[str | int, either(str, int, otherwise="must be a label's name or its id, an integer")]


class Txt2ImgRequest(SizedRequest):
    """A prompt to an image; with `image`, an image and a prompt to another."""

    example: ClassVar = {"prompt": "a red house by the sea at sunset", "seed": 7}

    prompt: Prompt = Field()
    image: ImageData | None = Field(default=None, description="an image to begin with; it gives the size then")
    strength: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="how far to go from `image`: 0.8 if it is left out"
    )
    neighbors: list[ImageData] | None = Field(
        default=None,
        min_length=1,
        description="images like the one wanted, up to the model's max_neighbors; "
        "in multipart/form-data a file part `neighbors` for each",
    )

    def inputs(self, card: ModelCard) -> Inputs:
        """The size is the image's, where there is one."""
        neighbors = {f"neighbor{i}": to_png(image) for i, image in enumerate(self._neighbors(card))}
        if self.image is None:
            size = super().inputs(card)
            return Inputs(size.width, size.height, neighbors)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                raise InvalidParameter(name, "does not go with an image, which gives the size")
        image = flattened(open_image(image_bytes(self.image, "image"), "image", card.check_input_size))
        return Inputs(*image.size, {"image": to_png(image), **neighbors})

    def _neighbors(self, card: ModelCard) -> Iterator[Image.Image]:
        """The neighbors, at the size at which the model sees them."""
        given = self.neighbors or []
        if given and not card.max_neighbors:
            raise InvalidParameter("neighbors", f"model {card.id!r} takes none")
        if len(given) > card.max_neighbors:
            raise InvalidParameter("neighbors", f"must be at most {card.max_neighbors}, got {len(given)}")
        for i, data in enumerate(given):
            image = flattened(open_image(image_bytes(data, f"neighbors/{i}"), f"neighbors/{i}", card.check_max_pixels))
            yield central_square(image, card.neighbor_size)

    def parameters(self, card: ModelCard) -> dict[str, Any]:
        if self.image is not None:
            return {"strength": IMAGE_STRENGTH if self.strength is None else self.strength}
        if self.strength is not None:
            raise InvalidParameter("strength", "needs an image")
        return {}


class InpaintRequest(DrawRequest):
    """An image with a hole to a whole one."""

    example: ClassVar = {"prompt": "a blue house by the sea", "image": BASE64, "mask": BASE64}
    mask_by_alpha: ClassVar[bool] = False  # a mask with transparent pixels may be white in others

    image: ImageData = Field(description=IMAGE)
    mask: ImageData | None = Field(
        default=None, description="white = repaint; without it, the transparent pixels of `image` are repainted"
    )

    def inputs(self, card: ModelCard) -> Inputs:
        image = open_image(image_bytes(self.image, "image"), "image", card.check_input_size)
        mask: Image.Image | None
        if self.mask is None:
            mask = mask_of_transparency(image)
            if mask is None:
                raise InvalidImage("mask", "is required, because the image has no transparent pixels")
            known = image.convert("RGB")
        else:
            mask = open_mask(image_bytes(self.mask, "mask"), "mask", image.size, by_alpha=self.mask_by_alpha)
            known = flattened(image)
        if mask.getextrema() == (0, 0):
            raise InvalidImage("mask", "has nothing to repaint: no pixel is at least half grey")
        return Inputs(*image.size, {"image": to_png(known), "mask": to_png(mask)})


class SuperresRequest(JobRequest):
    """A small image to a large one."""

    example: ClassVar = {"image": BASE64}

    image: ImageData = Field(description=IMAGE)

    def inputs(self, card: ModelCard) -> Inputs:
        image = flattened(open_image(image_bytes(self.image, "image"), "image", card.check_input_size))
        return Inputs(image.width * card.scale, image.height * card.scale, {"image": to_png(image)})


class Class2ImgRequest(SizedRequest):
    """A class to an image: one of `class_id` and `class_name`."""

    example: ClassVar = {"class_id": 207, "guidance_scale": 3.0}

    class_id: int | None = Field(default=None, ge=0, le=MAX_CLASS_ID, description="an id below the model's label_count")
    class_name: str | None = Field(default=None, max_length=MAX_NAME_CHARS, description="one of the model's labels")

    def parameters(self, card: ModelCard) -> dict[str, Any]:
        if (self.class_id is None) == (self.class_name is None):
            raise InvalidParameter("class_id", "give either class_id or class_name")
        given = self.class_id
        return {"class_id": given if given is not None else _label_id(card, "class_name", self.class_name or "")}


class Semantic2ImgRequest(DrawRequest):
    """A semantic map to an image of its size."""

    example: ClassVar = {"map": BASE64}

    map: ImageData = Field(description="PNG, grey or with a palette, whose values are ids of the model's labels")

    def inputs(self, card: ModelCard) -> Inputs:
        labels = open_labels(image_bytes(self.map, "map"), "map", card.check_input_size, card.label_count)
        return Inputs(*labels.size, {"image": to_png(labels)})


class LayoutThing(Fields):
    """One thing in a layout."""

    label: Label = Field(description="one of the model's labels, or its id")
    box: list[float] = Field(min_length=4, max_length=4, description="[x0, y0, x1, y1] as shares of width and height")

    def placed(self, field: str, card: ModelCard) -> LayoutObject:
        """Itself with its label's id; `field` is where it stands in the request."""
        label = self.label if isinstance(self.label, int) else _label_id(card, f"{field}/label", self.label)
        x0, y0, x1, y1 = self.box
        return LayoutObject(label, x0, y0, x1, y1)


class Layout2ImgRequest(SizedRequest):
    """Things and their places to an image."""

    example: ClassVar = {"objects": [{"label": "Tree", "box": [0.1, 0.2, 0.5, 0.9]}]}

    objects: list[LayoutThing] = Field(min_length=1, max_length=1000)

    def parameters(self, card: ModelCard) -> dict[str, Any]:
        return {"objects": tuple(thing.placed(f"objects/{i}", card) for i, thing in enumerate(self.objects))}


class UnconditionalRequest(SizedRequest):
    """An image of what the model was trained on."""

    example: ClassVar = {"seed": 7}


def _label_id(card: ModelCard, field: str, name: str) -> int:
    found = card.label_id(name)
    if found is None:
        known = "see its labels in /v1/models" if card.labels else "it has no names, only ids"
        raise InvalidParameter(field, f"{name[:80]!r} is no label of model {card.id!r}; {known}")
    return found


REQUESTS: dict[Task, type[JobRequest]] = {
    "txt2img": Txt2ImgRequest,
    "inpaint": InpaintRequest,
    "superres": SuperresRequest,
    "class2img": Class2ImgRequest,
    "semantic2img": Semantic2ImgRequest,
    "layout2img": Layout2ImgRequest,
    "unconditional": UnconditionalRequest,
}
