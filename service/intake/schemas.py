"""The shape of requests: field names here are the promise to clients."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from ldm_core.params import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_PROMPT_CHARS, MAX_SEED, MAX_STEPS, Task
from service.intake.vocabulary import MAX_NAME_CHARS, ImageFormat, Metadata, Priority, Sampler

MAX_METADATA_BYTES = 2048
IMAGE_FIELDS = frozenset({"image", "mask", "map", "neighbors"})
MAX_SIDE = 2**16  # of any image of any model: a number to calculate with
MAX_CLASS_ID = 2**16

IMAGE = "PNG, JPEG or WebP: base64 or a data: URL in JSON, a file part in multipart/form-data"
NOT_AN_IMAGE = "must be base64, a data: URL or a file part of multipart/form-data"


def _either(*kinds: type, otherwise: str) -> BeforeValidator:
    """One sentence about a value of none of these types, in place of an error for each branch of their union."""

    def check(value: Any) -> Any:
        if type(value) not in kinds:  # a bool is no int
            raise ValueError(otherwise)
        return value

    return BeforeValidator(check)


Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
ImageData = Annotated[
    str | bytes,
    _either(str, bytes, otherwise=NOT_AN_IMAGE),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Label = Annotated[str | int, _either(str, int, otherwise="must be a label's name or its id, an integer")]


def _optional_as_nullable(schema: dict[str, Any]) -> None:
    """Says that every field that may be left out may be null instead.

    Defaults stand in the description: generators take a field with `default` for one that is always sent.
    """
    for name in schema["properties"].keys() - set(schema.get("required", ())):
        field = schema["properties"][name]
        if default := field.pop("default", None):
            field["description"] = "; ".join(filter(None, [field.get("description"), f"{default} by default"]))
        kinds = field.pop("anyOf", None)
        if kinds is None:
            kinds = [{key: field.pop(key) for key in field.keys() - {"title", "description"}}]
        field["anyOf"] = [*(kind for kind in kinds if kind != {"type": "null"}), {"type": "null"}]


class Fields(BaseModel):
    """An object of a request. Null equals an absent field. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}


class JobRequest(Fields):
    """What all tasks have in common. `None` means the model's default."""

    model_config = ConfigDict(
        protected_namespaces=(), hide_input_in_errors=True, json_schema_extra=_optional_as_nullable
    )

    prompt: Prompt = ""
    negative_prompt: Prompt = Field(default="", description="takes the place of the empty prompt in guidance")
    model: str | None = Field(
        default=None, max_length=MAX_NAME_CHARS, description="an id from /v1/models; the task's default otherwise"
    )
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="the model's default otherwise")
    sampler: Sampler | None = Field(
        default=None, description="the model's default_sampler otherwise; ddim where eta is given"
    )
    guidance_scale: float | None = Field(
        default=None, ge=1, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False, description="1: no guidance"
    )
    eta: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False, description="0: deterministic DDIM, 1: like DDPM")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="random otherwise; image i uses seed + i")
    n: int = Field(default=1, ge=1, le=MAX_IMAGES, description="images")
    priority: Priority = "normal"
    format: ImageFormat = "png"
    timeout: float | None = Field(
        default=None, ge=1, allow_inf_nan=False, description="seconds; the operator's limit otherwise"
    )
    metadata: Metadata = Field(default_factory=dict, description="echoed, never interpreted; at most 2 KiB")

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, str]) -> dict[str, str]:
        size = sum(len(part.encode()) for pair in value.items() for part in pair)
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes, got {size}")
        return value


class DrawRequest(JobRequest):
    """A task that draws."""

    upscale: bool = Field(default=False, description="a super-resolution model enlarges each image in the same job")


class SizedRequest(DrawRequest):
    """A task to which no image gives its size."""

    width: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="a multiple of the model's size_multiple")
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="a multiple of the model's size_multiple")


class Txt2ImgRequest(SizedRequest):
    """A prompt to an image; with `image`, an image to another one."""

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


class InpaintRequest(DrawRequest):
    """An image with a hole to a whole one."""

    mask_by_alpha: ClassVar[bool] = False  # a mask with transparent pixels may be white in others

    image: ImageData = Field(description=IMAGE)
    mask: ImageData | None = Field(
        default=None, description="white = repaint; without it, the transparent pixels of `image` are repainted"
    )


class SuperresRequest(JobRequest):
    """A small image to a large one."""

    image: ImageData = Field(description=IMAGE)


class Class2ImgRequest(SizedRequest):
    """A class to an image: one of `class_id` and `class_name`."""

    class_id: int | None = Field(default=None, ge=0, le=MAX_CLASS_ID, description="an id below the model's label_count")
    class_name: str | None = Field(default=None, max_length=MAX_NAME_CHARS, description="one of the model's labels")


class Semantic2ImgRequest(DrawRequest):
    """A semantic map to an image of its size."""

    map: ImageData = Field(description="PNG, grey or with a palette, whose values are ids of the model's labels")


class LayoutThing(Fields):
    """One thing in a layout."""

    label: Label = Field(description="one of the model's labels, or its id")
    box: list[float] = Field(min_length=4, max_length=4, description="[x0, y0, x1, y1] as shares of width and height")


class Layout2ImgRequest(SizedRequest):
    """Things and their places to an image."""

    objects: list[LayoutThing] = Field(min_length=1, max_length=1000)


class UnconditionalRequest(SizedRequest):
    """An image of what the model was trained on."""


REQUESTS: dict[Task, type[JobRequest]] = {
    "txt2img": Txt2ImgRequest,
    "inpaint": InpaintRequest,
    "superres": SuperresRequest,
    "class2img": Class2ImgRequest,
    "semantic2img": Semantic2ImgRequest,
    "layout2img": Layout2ImgRequest,
    "unconditional": UnconditionalRequest,
}
