"""The shape of requests and of the job in answers: field names here are the promise to clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ldm_core.params import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_PROMPT_CHARS, MAX_SEED, MAX_STEPS, SAMPLERS, Task
from worker.jobs import Format, JobView, Priority

MAX_METADATA_BYTES = 2048
PICTURES = frozenset({"image", "mask", "map", "neighbors"})  # fields that hold pictures
MAX_SIDE = 2**16  # of any picture of any model: a number to calculate with
MAX_CLASS_ID = 2**16
MAX_NAME_CHARS = 200

Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]
Picture = Annotated[
    str | bytes,
    Field(
        description="PNG, JPEG or WebP: base64 or a data: URL in JSON, a file part in multipart/form-data",
        json_schema_extra={"type": "string", "anyOf": None, "contentEncoding": "base64"},
    ),
]


class JobRequest(BaseModel):
    """What all tasks have in common. `None` means the model's default."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), hide_input_in_errors=True)

    prompt: Prompt = ""
    negative_prompt: Prompt = Field(default="", description="takes the place of the empty prompt in guidance")
    model: str | None = Field(
        default=None, max_length=MAX_NAME_CHARS, description="an id from /v1/models; the task's default otherwise"
    )
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="the model's default otherwise")
    sampler: str = Field(default="ddim", max_length=MAX_NAME_CHARS, json_schema_extra={"enum": list(SAMPLERS)})
    guidance_scale: float | None = Field(
        default=None, ge=1, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False, description="1: no guidance"
    )
    eta: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False, description="0: deterministic DDIM, 1: like DDPM")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="random otherwise; image i uses seed + i")
    n: int = Field(default=1, ge=1, le=MAX_IMAGES, description="images")
    priority: Priority = "normal"
    format: Format = "png"
    timeout: float | None = Field(
        default=None, ge=1, allow_inf_nan=False, description="seconds; the operator's limit otherwise"
    )
    metadata: dict[str, str] = Field(default_factory=dict, description="echoed, never interpreted; at most 2 KiB")

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, str]) -> dict[str, str]:
        size = sum(len(part.encode()) for pair in value.items() for part in pair)
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes, got {size}")
        return value


class SizedRequest(JobRequest):
    """A task to which no picture gives its size."""

    width: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="a multiple of the model's size_multiple")
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="a multiple of the model's size_multiple")


class Txt2ImgRequest(SizedRequest):
    """A prompt to a picture; with `image`, a picture to another one."""

    prompt: Prompt = Field()
    image: Picture | None = Field(default=None, description="a picture to begin with; it gives the size then")
    strength: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="how far to go from `image`: 0.8 if it is left out"
    )
    neighbors: list[Picture] | None = Field(
        default=None,
        min_length=1,
        description="pictures like the one wanted, up to the model's max_neighbors; "
        "in multipart/form-data a file part `neighbors` for each",
    )


class InpaintRequest(JobRequest):
    """A picture with a hole to a whole one."""

    image: Picture
    mask: Picture | None = Field(
        default=None, description="white = repaint; without it, the transparent pixels of `image` are repainted"
    )


class SuperresRequest(JobRequest):
    """A small picture to a large one."""

    image: Picture


class Class2ImgRequest(SizedRequest):
    """A class to a picture: one of `class_id` and `class_name`."""

    class_id: int | None = Field(default=None, ge=0, le=MAX_CLASS_ID, description="an id below the model's label_count")
    class_name: str | None = Field(default=None, max_length=MAX_NAME_CHARS, description="one of the model's labels")


class Semantic2ImgRequest(JobRequest):
    """A semantic map to a picture of its size."""

    map: Picture = Field(description="PNG, grey or with a palette, whose values are ids of the model's labels")


class LayoutThing(BaseModel):
    """One thing in a layout."""

    model_config = ConfigDict(extra="forbid")

    label: str | int = Field(description="one of the model's labels, or its id")
    box: list[float] = Field(min_length=4, max_length=4, description="[x0, y0, x1, y1] as shares of width and height")


class Layout2ImgRequest(SizedRequest):
    """Things and their places to a picture."""

    objects: list[LayoutThing] = Field(min_length=1, max_length=1000)


class UnconditionalRequest(SizedRequest):
    """A picture of what the model was trained on."""


REQUESTS: dict[Task, type[JobRequest]] = {
    "txt2img": Txt2ImgRequest,
    "inpaint": InpaintRequest,
    "superres": SuperresRequest,
    "class2img": Class2ImgRequest,
    "semantic2img": Semantic2ImgRequest,
    "layout2img": Layout2ImgRequest,
    "unconditional": UnconditionalRequest,
}


def job_json(view: JobView) -> dict[str, Any]:
    """A job as clients see it."""
    payload, url = view.payload, f"/v1/jobs/{view.payload.id}"
    return {
        "id": payload.id,
        "task": payload.params.task,
        "model": payload.model,
        "status": view.status,
        "progress": view.progress,
        "step": view.step,
        "steps": view.steps,
        "queue_position": view.queue_position,
        "created_at": _time(view.created_at),
        "started_at": _time(view.started_at),
        "finished_at": _time(view.finished_at),
        "expires_at": _time(view.expires_at),
        "request": _request_json(view),
        "images": [{"url": f"{url}/images/{i}", **image.to_json()} for i, image in enumerate(view.images)],
        "error": dict(view.error) | {"instance": url} if view.error else None,
        "warnings": [warning.to_json() for warning in view.warnings],
        "urls": {"self": url, "events": f"{url}/events", "cancel": url},
    }


def _request_json(view: JobView) -> dict[str, Any]:
    payload = view.payload
    params = payload.params.to_json()
    del params["task"]
    if "objects" in params:
        params["objects"] = [{"label": label, "box": box} for label, *box in params["objects"]]
    return {
        **params,
        "model": payload.model,
        "priority": payload.priority,
        "format": payload.format,
        "timeout": payload.timeout_s,
        "metadata": dict(payload.metadata),
    }


def _time(seconds: float | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
