"""What the requests of all tasks have in common; each task's own is in tasks.py. Names are the promise to clients."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from ldm_core.card import ModelCard
from ldm_core.params import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_PROMPT_CHARS, MAX_SEED, MAX_STEPS
from service.access.webhooks import MAX_URL_CHARS
from service.intake.inputs import NOT_AN_IMAGE, Inputs
from service.intake.vocabulary import MAX_NAME_CHARS, ImageFormat, Metadata, Priority, Sampler, Schedule
from worker.jobs import QUALITY

MAX_METADATA_BYTES = 2048
IMAGE_FIELDS = frozenset({"image", "mask", "map", "neighbors"})
MAX_SIDE = 2**16  # of any image of any model: a number to calculate with


def either(*kinds: type, otherwise: str) -> BeforeValidator:
    """One sentence about a value of none of these types, in place of an error for each branch of their union."""

    def check(value: Any) -> Any:
        if type(value) not in kinds:  # a bool is no int
            raise ValueError(otherwise)
        return value

    return BeforeValidator(check)


Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
ImageData = Annotated[
    str | bytes,
    either(str, bytes, otherwise=NOT_AN_IMAGE),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


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

    example: ClassVar[dict[str, Any]] = {}  # a whole request, for the OpenAPI

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
    schedule: Schedule | None = Field(
        default=None, description="how noise levels are spaced; the model's default_schedule otherwise"
    )
    guidance_scale: float | None = Field(
        default=None, ge=1, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False, description="1: no guidance"
    )
    guidance_start: float = Field(
        default=0.0, ge=0, le=1, allow_inf_nan=False, description="the share of the run before guidance begins"
    )
    guidance_end: float = Field(
        default=1.0, ge=0, le=1, allow_inf_nan=False,
        description="the share of the run after which guidance is left out, which halves the work of a step",
    )  # fmt: skip
    eta: float = Field(
        default=0.0, ge=0, le=1, allow_inf_nan=False, description="0: deterministic DDIM, 1: like DDPM; γ of TCD"
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="random otherwise; image i uses seed + i")
    n: int = Field(default=1, ge=1, le=MAX_IMAGES, description="images")
    priority: Priority = "normal"
    format: ImageFormat = "png"
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description=f"the quality of a JPEG or a WebP; {QUALITY} otherwise"
    )
    timeout: float | None = Field(
        default=None, ge=1, allow_inf_nan=False, description="seconds; the operator's limit otherwise"
    )
    webhook: str | None = Field(
        default=None,
        max_length=MAX_URL_CHARS,
        description="an https:// URL on one of the operator's hosts, which is told the job's end, signed",
    )
    metadata: Metadata = Field(default_factory=dict, description="echoed, never interpreted; at most 2 KiB")

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, str]) -> dict[str, str]:
        size = sum(len(part.encode()) for pair in value.items() for part in pair)
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes, got {size}")
        return value

    def inputs(self, card: ModelCard) -> Inputs:
        """Its images, opened, and the size of what comes out. Raises RequestError for what the model does not take."""
        raise NotImplementedError

    def parameters(self, card: ModelCard) -> dict[str, Any]:
        """The sampling parameters that only this task has. Raises RequestError."""
        return {}


class DrawRequest(JobRequest):
    """A task that draws."""

    upscale: bool = Field(default=False, description="a super-resolution model enlarges each image in the same job")


class SizedRequest(DrawRequest):
    """A task to which no image gives its size."""

    width: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="a multiple of the model's size_multiple")
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="a multiple of the model's size_multiple")

    def inputs(self, card: ModelCard) -> Inputs:
        width, height = card.native_size
        return Inputs(self.width or width, self.height or height)
