"""The engine's input (Request), output (events) and the state of one image (ImageRun). No Redis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ldm_core.job_warning import JobWarning
from ldm_core.params import EVALUATED_TWICE, GenerationParams
from worker.jobs import JobPayload, Pass

if TYPE_CHECKING:
    from PIL import Image

    from ldm_core.images.decoding import Images
    from ldm_core.sampling.sample import Sample
    from worker.engine.saved_sample import SavedSample

PREVIEW_S = 0.5  # at least, between two previews of a job
EARLY_PREVIEWS = 3  # come every PREVIEW_S, so that short jobs have some; of later ones
PREVIEW_SHARE = 0.02  # is the most of a job's time that they take


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

    key: str
    step: int


@dataclass(frozen=True, slots=True)
class Saved:
    """The job's checkpoint at `step`. `encode` makes the bytes, which takes milliseconds."""

    key: str
    step: int
    encode: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview of the job's first image, a small JPEG."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The job's images, in order, and warnings for what the networks could not take in."""

    key: str
    images: tuple[EncodedImage, ...]
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed. `retryable` says whether a retry may end differently."""

    key: str
    error: Exception
    retryable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled and has left the batch."""

    key: str


Event = Progress | Saved | Preview | Finished | Failed | Cancelled


@dataclass(eq=False, slots=True)
class Request:
    """A job inside the engine: what it asks for, its images, and those of them that are done.

    `key` names it in events, `encoded` are its input images, and `deadline` is of the monotonic clock.

    A job has four shapes on its way in: `service.intake.schemas.JobRequest` is what a client wrote, `JobPayload` has
    every default and is stored, this one is what is under way, and `ImageRun` is one row or two of a step.
    """

    key: str
    payload: JobPayload
    encoded: Mapping[str, bytes] = field(default_factory=dict)
    checkpoint: bytes | None = None  # of an execution before this one
    deadline: float | None = None
    runs: list[ImageRun] = field(init=False)
    inputs: Images | None = field(init=False, default=None)  # decoded once, for all its images
    done: dict[int, EncodedImage] = field(init=False, default_factory=dict)
    resumes: dict[int, SavedSample] = field(init=False, default_factory=dict)  # of the pass that each image is in
    saved_at: float = field(init=False, default_factory=time.monotonic)
    preview_requested: bool = field(init=False, default=False)  # by a client that wants to see previews
    previews: int = field(init=False, default=0)  # made so far
    next_preview_at: float = field(init=False, default=-math.inf)  # not before, on the monotonic clock

    def __post_init__(self) -> None:
        self.runs = [ImageRun(self, index) for index in range(self.params.n)]

    def preview_is_due(self, now: float) -> bool:
        return self.preview_requested and now >= self.next_preview_at

    def preview_begins(self, now: float) -> None:
        self.next_preview_at = now + PREVIEW_S

    def preview_ended(self, now: float, seconds: float) -> None:
        """After one that took so long."""
        self.previews += 1
        if self.previews >= EARLY_PREVIEWS:
            self.next_preview_at = now + max(PREVIEW_S, seconds / PREVIEW_SHARE)

    @property
    def params(self) -> GenerationParams:
        return self.payload.params

    @property
    def step(self) -> int:
        """Steps done by the slowest image, over all passes."""
        steps = self.payload.steps
        return min(steps if run.index in self.done else run.step for run in self.runs)


@dataclass(eq=False, slots=True)
class ImageRun:
    """One image of a request, in one of its passes. `sample` is there from the pass's first step to its last."""

    request: Request
    index: int
    drawn: list[Image.Image] = field(init=False, default_factory=list)  # the result of each pass that has ended
    steps_before: int = field(init=False, default=0)  # those of the passes behind it
    sample: Sample | None = field(init=False, default=None)
    stepped: int = field(init=False, default=0)  # the number of the engine's step in which it was last
    model: str = field(init=False)
    params: GenerationParams = field(init=False)
    kind: tuple[str, int, int] = field(init=False)  # model and size: what the time of a row depends on

    def __post_init__(self) -> None:
        self._enter(self.request.payload.passes[0])

    def advance(self, image: Image.Image) -> None:
        """Enters the next pass with the result of this one."""
        self.drawn.append(image)
        self.steps_before += self.params.steps
        self.sample = None
        self.request.resumes.pop(self.index, None)
        self._enter(self.request.payload.passes[len(self.drawn)])

    def _enter(self, of: Pass) -> None:
        self.model, self.params = of.model, of.params
        self.kind = of.model, of.params.width, of.params.height

    @property
    def rows(self) -> int:
        """U-Net rows of its next step."""
        return self.params.rows_per_image if self.sample is None or self.sample.done else self.sample.rows

    @property
    def has_begun(self) -> bool:
        return self.sample is not None or bool(self.drawn)

    @property
    def is_in_last_pass(self) -> bool:
        return len(self.drawn) == len(self.request.payload.passes) - 1

    @property
    def owner(self) -> str:
        return self.request.payload.owner

    @property
    def step(self) -> int:
        """Steps done or left out, over all passes."""
        if self.sample is None:
            saved = self.request.resumes.get(self.index)
            lines = saved.step if saved else 0
            done = lines // 2 if self.params.sampler in EVALUATED_TWICE else lines
            return self.steps_before + min(done, self.params.steps)
        return self.steps_before + self.sample.steps_done(self.params.steps)
