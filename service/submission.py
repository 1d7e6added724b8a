"""From a request to a job: the model, every default, the pictures as a worker wants them."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from anyio import CapacityLimiter, to_thread
from PIL import Image

from ldm_core.config import ModelCard
from ldm_core.errors import InvalidImage, InvalidParameter, UnsupportedTask
from ldm_core.image import central_square, flattened, mask_of_transparency, open_image, open_labels, open_mask, to_png
from ldm_core.params import MAX_SEED, GenerationParams, LayoutObject, Task
from service.broker import Broker
from service.errors import Problem
from service.schemas import (
    Class2ImgRequest,
    InpaintRequest,
    JobRequest,
    Layout2ImgRequest,
    LayoutThing,
    Semantic2ImgRequest,
    SizedRequest,
    SuperresRequest,
    Txt2ImgRequest,
)
from worker.jobs import JobPayload

# a few large uploads at once must not take every thread, nor the memory of as many decoded pictures
DECODING = CapacityLimiter(4)
IMAGE_STRENGTH = 0.8  # of image to image, when the client does not say; diffusers' default


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pictures of a job as PNG, and the size, in pixels, of what will come out."""

    width: int
    height: int
    pictures: Mapping[str, bytes] = field(default_factory=dict)


async def prepare(broker: Broker, task: Task, body: JobRequest, request_id: str) -> tuple[JobPayload, Inputs]:
    """Resolves every default. Raises RequestError for what the model does not take, Problem when none is there."""
    card = await _find_card(broker, task, body.model)
    _refuse_unused(card, body)
    inputs = await to_thread.run_sync(_inputs, body, card, limiter=DECODING)
    params = GenerationParams(
        task=task,
        width=inputs.width,
        height=inputs.height,
        steps=card.default_steps if body.steps is None else body.steps,
        guidance_scale=card.guidance_for(task) if body.guidance_scale is None else body.guidance_scale,
        seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        sampler=body.sampler,
        eta=body.eta,
        n=body.n,
        **_wanted(body, card),
    )
    card.check(params)
    payload = JobPayload(
        id=str(uuid4()),
        model=card.id,
        params=params,
        format=body.format,
        priority=body.priority,
        metadata=body.metadata,
        request_id=request_id,
        inputs=tuple(inputs.pictures),
    )
    return payload, inputs


async def _find_card(broker: Broker, task: Task, name: str | None) -> ModelCard:
    """The model of that id; without one, the task's default, or else any that does the task."""
    cards = [model.card for model in await broker.models()]
    if not cards:
        raise Problem(503, "No worker is there to take the job; try again soon.", headers={"Retry-After": "5"})
    if name is not None:
        card = next((card for card in cards if card.id == name), None)
        if card is None:
            known = ", ".join(card.id for card in cards)
            raise InvalidParameter("model", f"{name[:80]!r} is not served here; there are {known}")
    else:
        able = [card for card in cards if task in card.tasks]
        if not able:
            raise UnsupportedTask("model", f"no model served here does {task}")
        card = next((card for card in able if task in card.default_for), able[0])
    card.check_task(task)
    return card


def _refuse_unused(card: ModelCard, body: JobRequest) -> None:
    if not card.text and (body.prompt or body.negative_prompt):
        raise InvalidParameter("prompt" if body.prompt else "negative_prompt", f"model {card.id!r} takes no text")


def _inputs(body: JobRequest, card: ModelCard) -> Inputs:
    match body:
        case InpaintRequest():
            return _inpainting(body, card)
        case SuperresRequest():
            picture = flattened(open_image(_bytes(body.image, "image"), "image", card.check_input_size))
            return Inputs(picture.width * card.scale, picture.height * card.scale, {"image": to_png(picture)})
        case Semantic2ImgRequest():
            labels = open_labels(_bytes(body.map, "map"), "map", card.check_input_size, card.label_count)
            return Inputs(*labels.size, {"image": to_png(labels)})
        case Txt2ImgRequest():
            return _txt2img(body, card)
        case SizedRequest():
            width, height = card.native_size
            return Inputs(body.width or width, body.height or height)
    raise TypeError(type(body))


def _txt2img(body: Txt2ImgRequest, card: ModelCard) -> Inputs:
    """With an image, that gives the size."""
    pictures = {f"neighbor{i}": to_png(picture) for i, picture in enumerate(_neighbors(body, card))}
    if body.image is None:
        width, height = card.native_size
        return Inputs(body.width or width, body.height or height, pictures)
    for name in ("width", "height"):
        if getattr(body, name) is not None:
            raise InvalidParameter(name, "does not go with an image, which gives the size")
    picture = flattened(open_image(_bytes(body.image, "image"), "image", card.check_input_size))
    return Inputs(*picture.size, {"image": to_png(picture), **pictures})


def _neighbors(body: Txt2ImgRequest, card: ModelCard) -> Iterator[Image.Image]:
    """Pictures like the one that is wanted, at the size at which the model looks at them."""
    given = body.neighbors or []
    if given and not card.max_neighbors:
        raise InvalidParameter("neighbors", f"model {card.id!r} takes none")
    if len(given) > card.max_neighbors:
        raise InvalidParameter("neighbors", f"must be at most {card.max_neighbors}, got {len(given)}")
    for i, data in enumerate(given):
        picture = flattened(open_image(_bytes(data, f"neighbors/{i}"), f"neighbors/{i}", card.check_max_pixels))
        yield central_square(picture, card.neighbor_size)


def _wanted(body: JobRequest, card: ModelCard) -> dict[str, Any]:
    """The parameters that only this kind of request has."""
    match body:
        case Txt2ImgRequest(image=str() | bytes()):
            return {"strength": IMAGE_STRENGTH if body.strength is None else body.strength}
        case Txt2ImgRequest(strength=float()):
            raise InvalidParameter("strength", "needs an image")
        case Class2ImgRequest():
            return {"class_id": _class_id(body, card)}
        case Layout2ImgRequest():
            return {"objects": tuple(_placed(i, thing, card) for i, thing in enumerate(body.objects))}
    return {}


def _class_id(body: Class2ImgRequest, card: ModelCard) -> int:
    if (body.class_id is None) == (body.class_name is None):
        raise InvalidParameter("class_id", "give either class_id or class_name")
    return body.class_id if body.class_id is not None else _label_id(card, "class_name", body.class_name or "")


def _placed(index: int, thing: LayoutThing, card: ModelCard) -> LayoutObject:
    label = thing.label if isinstance(thing.label, int) else _label_id(card, f"objects/{index}/label", thing.label)
    x0, y0, x1, y1 = thing.box
    return LayoutObject(label, x0, y0, x1, y1)


def _label_id(card: ModelCard, field: str, name: str) -> int:
    found = card.label_id(name)
    if found is None:
        known = "see its labels in /v1/models" if card.labels else "it has no names, only ids"
        raise InvalidParameter(field, f"{name[:80]!r} is no label of model {card.id!r}; {known}")
    return found


def _inpainting(body: InpaintRequest, card: ModelCard) -> Inputs:
    picture = open_image(_bytes(body.image, "image"), "image", card.check_input_size)
    mask: Image.Image | None
    if body.mask is None:
        mask = mask_of_transparency(picture)
        if mask is None:
            raise InvalidImage("mask", "is required, because the image has no transparent pixels")
        known = picture.convert("RGB")
    else:
        mask = open_mask(_bytes(body.mask, "mask"), "mask", picture.size)
        known = flattened(picture)
    if mask.getextrema() == (0, 0):
        raise InvalidImage("mask", "has nothing to repaint: no pixel is at least half grey")
    return Inputs(*picture.size, {"image": to_png(known), "mask": to_png(mask)})


def _bytes(value: str | bytes, field: str) -> bytes:
    """A file part as it is, base64 or a data: URL decoded. Addresses are never fetched."""
    if isinstance(value, bytes):
        return value
    if value[:5].lower() == "data:":
        head, comma, value = value.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidImage(field, "must be a data: URL in base64")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(field, "must be base64, a data: URL or a file part") from None
