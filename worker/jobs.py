"""The wire between gateway and worker: what a job is, and the names under which Redis keeps it. No torch, no Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ldm_core.card import ModelCard
from ldm_core.errors import LdmError
from ldm_core.job_warning import JobWarning, warnings_from_json
from ldm_core.params import SAMPLERS, TASKS, GenerationParams

Priority = Literal["low", "normal", "high"]
Format = Literal["png", "jpeg", "webp"]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")  # the order in which a worker looks
TERMINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
CONTENT_TYPES: Mapping[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
LATER = frozenset({"upscale", "output_compression", "webhook"})  # fields of a job that came after the first release
QUALITY = 92  # of a JPEG or a WebP whose request names none
FUNCTION = "ldm.generate"  # the one name on the queues; a worker looks it up in its own table and imports nothing


class NotHere(LdmError):
    """A job that this worker cannot run, and another may."""


class OtherVersion(NotHere):
    """A job of another version asks for what this one does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run of a sampler by one model: the job's task, or the super-resolution of what the task has drawn."""

    model: str
    params: GenerationParams

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "params": self.params.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pass:
        """Reads what `to_json` wrote, here or in another version, as far as this one knows it."""
        return cls(model=data["model"], params=_known_parameters(data["params"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPayload:
    """One accepted job. Input images are blobs of their own, not part of it."""

    id: str
    model: str
    params: GenerationParams
    upscale: Pass | None = None  # enlarges each image in the same job (cascaded diffusion, Ho et al. 2021)
    format: Format = "png"
    output_compression: int | None = None  # the quality of a JPEG or a WebP, 0 to 100; None: QUALITY
    priority: Priority = "normal"
    metadata: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    owner: str = ""  # the name of the API key that sent it; none where no keys are configured
    weight: float = 1.0  # of its share of the device against other owners' jobs
    timeout_s: int | None = None  # how long it may run; None: the operator's limit
    inputs: tuple[str, ...] = ()  # names of its input images: image, mask, neighbor0, ...
    warnings: tuple[JobWarning, ...] = ()  # what the gateway knows will not be honoured
    webhook: str = ""  # the URL that is told its end

    @property
    def passes(self) -> tuple[Pass, ...]:
        """What each image goes through, in order."""
        task = Pass(model=self.model, params=self.params)
        return (task,) if self.upscale is None else (task, self.upscale)

    @property
    def steps(self) -> int:
        """The steps of all passes."""
        return sum(each.params.steps for each in self.passes)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finished images, in pixels."""
        params = self.passes[-1].params
        return params.width, params.height

    @property
    def rows(self) -> int:
        """The most U-Net rows that its images take in a step."""
        return self.params.n * max(each.params.rows_per_image for each in self.passes)

    def to_json(self) -> dict[str, Any]:
        """Leaves out LATER fields without a value, so that versions that do not know them run the job."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {
            "params": self.params.to_json(),
            "upscale": None if self.upscale is None else self.upscale.to_json(),
            "metadata": dict(self.metadata),
            "warnings": [warning.to_json() for warning in self.warnings],
        }
        return {name: value for name, value in values.items() if name not in LATER or value not in (None, "")}

    @classmethod
    def to_run(cls, data: Mapping[str, Any]) -> JobPayload:
        """As `from_json`, and raises OtherVersion where something is asked for that this version does not know."""
        passes = {"params": data["params"], "upscale/params": data.get("upscale", {}).get("params", {})}
        unknown = [f"{path}/{name}" for path, params in passes.items() for name in set(params) - PARAMETERS]
        unknown += set(data) - _names(cls)
        if unknown:
            raise OtherVersion(f"unknown here: {', '.join(sorted(unknown))}")
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobPayload:
        """Reads what `to_json` wrote, here or in another version, as far as this one knows it."""
        data = {key: value for key, value in data.items() if key in _names(cls)}
        given = {
            "params": _known_parameters(data["params"]),
            "inputs": tuple(data["inputs"]),
            "warnings": warnings_from_json(data.get("warnings", ())),
        }
        if upscale := data.get("upscale"):
            given["upscale"] = Pass.from_json(upscale)
        payload = cls(**{**data, **given})
        payload._check()
        return payload

    def _check(self) -> None:
        """Raises TypeError for what this version would not know how to run or to show."""
        if self.priority not in PRIORITIES or self.format not in CONTENT_TYPES:
            raise TypeError(f"unknown here: priority {self.priority!r} or format {self.format!r}")
        texts = (self.id, self.model, self.request_id, self.owner, self.webhook, *self.metadata.values(), *self.inputs)
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.weight, (int, float)):
            raise TypeError("a field of the job has another type than here")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One finished image; its bytes are a blob."""

    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoredImage:
        """Reads what `to_json` wrote, here or in another version, as far as this one knows it."""
        return cls(**{key: value for key, value in data.items() if key in _names(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as a client may see it. Times are Unix seconds; `error` is a problem object without `instance`."""

    payload: JobPayload
    status: Status
    step: int
    created_at: float
    queue_position: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    images: tuple[StoredImage, ...] = ()
    error: Mapping[str, Any] | None = None
    worker_warnings: tuple[JobWarning, ...] = ()  # what only the worker could see, such as tokens cut
    event_id: str = "0-0"  # of the last change of its status, in the stream of events
    as_of: float = field(default=0.0, compare=False)  # when it was read

    @property
    def steps(self) -> int:
        return self.payload.steps

    @property
    def warnings(self) -> tuple[JobWarning, ...]:
        """Everything that was asked for and not honoured."""
        return self.payload.warnings + self.worker_warnings

    @property
    def progress(self) -> float:
        return 1.0 if self.status == "succeeded" else min(1.0, self.step / self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableJob:
    """A job whose record is damaged, or of a version that this one cannot read: what its other fields still say."""

    id: str
    owner: str
    model: str
    status: Status
    created_at: float | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModel:
    """A model that live workers serve now."""

    card: ModelCard
    workers: int
    beside: frozenset[str] = frozenset()  # models that some worker serves together with it
    rows: int = 0  # of all the steps that its live workers took since each has started
    steps: int = 0


def _names(kind: Any) -> set[str]:
    return {each.name for each in fields(kind)}


def _known_parameters(data: Mapping[str, Any]) -> GenerationParams:
    return GenerationParams.from_json({key: value for key, value in data.items() if key in PARAMETERS})


PARAMETERS = frozenset(_names(GenerationParams))
FORMAT = (
    sorted(_names(JobPayload)), sorted(PARAMETERS), TASKS, SAMPLERS, PRIORITIES, sorted(CONTENT_TYPES)
)  # fmt: skip


def abilities(models: Sequence[str]) -> str:
    """A hash of what a worker reads and serves. A parked job skips workers whose hash has declined it."""
    return hashlib.sha256(repr((FORMAT, sorted(models))).encode()).hexdigest()[:16]


def queue_name(model: str, priority: Priority, owner: str = "") -> str:
    """Each owner has queues of its own, so that all of them get their turn."""
    return f"{model}.{priority}@{owner}" if owner else f"{model}.{priority}"
