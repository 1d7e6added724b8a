"""Models of the answers, which are also their OpenAPI: field names here are the promise to clients."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from service.access.links import Links
from service.access.webhooks import origin_of
from service.intake.vocabulary import ImageFormat, JobStatus, Metadata, Priority, Sampler, Schedule, Task
from service.problems import JobError
from worker.jobs import JobView, LiveModel, StoredImage, UnreadableJob


def _rfc_3339(time: datetime) -> str:
    """To the millisecond. pydantic reads Unix seconds as a time in UTC."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    datetime, PlainSerializer(_rfc_3339, return_type=str), WithJsonSchema({"type": "string", "format": "date-time"})
]


class JobWarning(BaseModel):
    """Something that was asked for and not honoured."""

    code: str = Field(description="for programs: it stays the same")
    detail: str
    pointer: str = Field(description="a JSON pointer to the request's field; empty where none is the cause")


class JobImage(BaseModel):
    """One finished image."""

    url: str
    signed_url: str | None = Field(
        default=None, description="with API keys: the same, for some minutes, without a header (`LDM_SIGNED_URL_TTL_S`)"
    )
    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str


class JobUrls(BaseModel):
    """Where to go from a job."""

    self: str
    events: str
    events_signed: str | None = Field(
        default=None, description="with API keys: the same, for some minutes, without a header (`LDM_SIGNED_URL_TTL_S`)"
    )
    cancel: str


class PlacedObject(BaseModel):
    """One object of a layout: its label's id, and [x0, y0, x1, y1] as shares of width and height."""

    label: int
    box: list[float]


class JobParameters(BaseModel):
    """Every parameter of a job with defaults resolved, without the images that were sent."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    sampler: Sampler
    guidance_scale: float
    eta: float
    seed: int
    n: int
    priority: Priority
    format: ImageFormat
    output_compression: int | None = None
    timeout: int | None = Field(description="seconds")
    metadata: Metadata
    strength: float | None = None
    class_id: int | None = None
    objects: list[PlacedObject] | None = None
    schedule: Schedule | None = Field(default=None, description="where noise levels are not spaced as timesteps are")
    guidance_start: float | None = Field(default=None, description="where it is not 0")
    guidance_end: float | None = Field(default=None, description="where it is not 1")
    upscale: bool | None = Field(default=None, description="of tasks that draw")
    webhook: str | None = Field(
        default=None, description="whom it will be told when it ends: scheme and host alone, the rest may be secret"
    )


class Job(BaseModel):
    """A job as it is now."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    task: Task
    model: str
    status: JobStatus
    progress: float = Field(ge=0, le=1)
    step: int
    steps: int
    queue_position: int | None = Field(description="1: the next one; null once it runs")
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    expires_at: Time | None
    request: JobParameters
    images: list[JobImage]
    error: JobError | None = Field(description="why it failed")
    warnings: list[JobWarning] = Field(description="what was asked for and not honoured; empty when all was")
    urls: JobUrls


class Progress(BaseModel):
    """What a `progress` event tells."""

    step: int
    steps: int
    progress: float
    preview: str | None = None  # a JPEG as a data URL


class DamagedJob(BaseModel):
    """A job whose record is damaged, or of a version unknown here; fields that only the record has are null."""

    id: str
    task: None
    model: str
    status: JobStatus
    progress: None
    step: None
    steps: None
    queue_position: None
    created_at: Time | None
    started_at: None
    finished_at: None
    expires_at: None
    request: None
    images: list[JobImage]
    error: JobError
    warnings: list[JobWarning]
    urls: JobUrls


class JobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[Job | DamagedJob]
    next_cursor: str | None = Field(description="for the next page; null on the last one")


class Model(BaseModel):
    """A model that live workers serve; sizes are of the output, in pixels."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    tasks: list[Task]
    default_for: list[Task]
    native_size: list[int] = Field(description="[width, height]")
    size_multiple: int
    max_pixels: int
    max_side: int = Field(description="pixels; 0: any, within max_pixels")
    scale: int
    samplers: list[str]
    default_sampler: Sampler
    schedules: list[str] = Field(description="spacings of noise levels")
    default_schedule: Schedule
    max_steps: int
    default_steps: int
    default_guidance_scale: float
    inpaint_guidance_scale: float | None
    text: bool
    vocabulary: list[str] | None = Field(description="every word that it was trained with; null: any text")
    guidance: bool
    labels: list[str] = Field(description="names of classes or objects, by id")
    label_count: int
    max_objects: int
    max_neighbors: int
    neighbor_size: int
    warnings: list[JobWarning] = Field(description="settings of its files that cannot be followed")
    loaded: bool
    workers: int


class ModelList(BaseModel):
    """The models that live workers serve."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Redis answers, and these models are served."""

    status: Literal["ready"]
    models: list[str]


NO_KEYS = Links()


def job_json(view: JobView, links: Links = NO_KEYS) -> dict[str, Any]:
    """The same as `job_of`, as JSON has it."""
    return job_of(view, links).model_dump(mode="json", exclude_unset=True)


def job_of(view: JobView, links: Links) -> Job:
    """A job as clients see it."""
    payload, path = view.payload, links.job(view.payload.id)
    fields = {
        "id": payload.id,
        "task": payload.params.task,
        "model": payload.model,
        "status": view.status,
        "progress": view.progress,
        "step": view.step,
        "steps": view.steps,
        "queue_position": view.queue_position,
        "created_at": view.created_at,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "expires_at": view.expires_at,
        "request": _parameters(view),
        "images": [_image(f"{path}/images/{i}", image, links) for i, image in enumerate(view.images)],
        "error": {**view.error, "instance": path} if view.error else None,
        "warnings": [warning.to_json() for warning in view.warnings],
        "urls": _urls(path, links),
    }
    return Job.model_validate(fields)


def damaged_job_of(job: UnreadableJob, links: Links) -> DamagedJob:
    """A job whose record cannot be read, as clients see it."""
    path = links.job(job.id)
    error = {"type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": job.detail}
    known: dict[str, Any] = {
        "id": job.id,
        "model": job.model,
        "status": job.status,
        "created_at": job.created_at,
        "images": [],
        "error": {**error, "instance": path},
        "warnings": [],
        "urls": _urls(path, links),
    }
    return DamagedJob.model_validate({**dict.fromkeys(DamagedJob.model_fields), **known})


def _image(path: str, image: StoredImage, links: Links) -> dict[str, Any]:
    return {"url": path, **links.signed("signed_url", path), **image.to_json()}


def _urls(path: str, links: Links) -> dict[str, str]:
    events = f"{path}/events"
    return {"self": path, "events": events, **links.signed("events_signed", events), "cancel": path}


def model_of(live: LiveModel) -> Model:
    """A model as clients see it."""
    return Model.model_validate({**live.card.to_json(), "object": "model", "loaded": True, "workers": live.workers})


def _parameters(view: JobView) -> dict[str, Any]:
    payload = view.payload
    params = payload.params.to_json()
    if "objects" in params:
        params["objects"] = [{"label": label, "box": box} for label, *box in params["objects"]]
    if payload.params.task != "superres":
        params["upscale"] = payload.upscale is not None
    return {
        **params,
        "model": payload.model,
        "priority": payload.priority,
        "format": payload.format,
        **({} if payload.output_compression is None else {"output_compression": payload.output_compression}),
        "timeout": payload.timeout_s,
        "metadata": dict(payload.metadata),
        **({"webhook": origin_of(payload.webhook)} if payload.webhook else {}),
    }
