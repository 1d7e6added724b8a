"""What the engine takes and gives: jobs in, events out, and the state of one image in between. No Redis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ldm_core.job_warning import JobWarning
from ldm_core.params import GenerationParams
from worker.jobs import Format, Priority

if TYPE_CHECKING:
    from ldm_core.images.decoding import Images
    from ldm_core.sampling.sample import Sample
    from worker.engine.saved_sample import SavedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One job as the engine knows it. `pictures` are encoded; `deadline` is of the monotonic clock."""

    id: str
    model: str
    params: GenerationParams
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    checkpoint: bytes | None = None  # of an execution before this one
    format: Format = "png"
    priority: Priority = "normal"
    owner: str = ""
    weight: float = 1.0  # of its share of the device, against other owners' jobs
    deadline: float | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One finished image, encoded in the job's format."""

    data: bytes
    seed: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` counts the steps of the job's slowest image."""

    job_id: str
    step: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What the job has become by `step`; `encode` makes the bytes, and takes its time."""

    job_id: str
    step: int
    encode: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Preview:
    """What the job's first image is going to be, as a small JPEG."""

    job_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The job's images, in order, and what of its request the networks could not take."""

    job_id: str
    images: tuple[EncodedImage, ...]
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """`retryable` says whether another try could end differently."""

    job_id: str
    error: Exception
    retryable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled and has left the batch."""

    job_id: str


Event = Progress | Saved | Preview | Finished | Failed | Cancelled


@dataclass(eq=False, slots=True)
class Request:
    """A job inside the engine: its images, and those of them that are done."""

    job: EngineJob
    runs: list[ImageRun] = field(init=False)
    inputs: Images | None = None  # decoded once, for all its images
    done: dict[int, EncodedImage] = field(default_factory=dict)
    resumes: Mapping[int, SavedSample] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)
    preview_requested: bool = False  # by a client that wants to see previews
    shown_at: float = -math.inf

    def __post_init__(self) -> None:
        self.runs = [ImageRun(self, index) for index in range(self.job.params.n)]

    @property
    def step(self) -> int:
        """Steps done by the slowest image."""
        steps = self.job.params.steps
        return min(steps if run.index in self.done else run.step for run in self.runs)


@dataclass(eq=False, slots=True)
class ImageRun:
    """One image of a request. `sample` is there from its first step to its last."""

    request: Request
    index: int
    sample: Sample | None = None
    stepped: int = 0  # the number of the engine's step in which it was last
    rows: int = field(init=False)  # U-Net rows it takes in a step
    kind: tuple[str, int, int] = field(init=False)  # model and size: what the time of a row depends on

    def __post_init__(self) -> None:
        job = self.request.job
        self.rows = job.params.rows_per_image
        self.kind = job.model, job.params.width, job.params.height

    @property
    def owner(self) -> str:
        return self.request.job.owner

    @property
    def step(self) -> int:
        """Steps done or left out."""
        if self.sample is None:
            saved = self.request.resumes.get(self.index)
            return min(saved.step, self.request.job.params.steps) if saved else 0
        return self.sample.steps_done(self.request.job.params.steps)
