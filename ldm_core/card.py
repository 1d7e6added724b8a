"""What `/v1/models` shows of a model, and the limits that a request is held against. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

from pydantic import Field

from ldm_core.errors import InvalidImage, InvalidParameter, UnsupportedTask
from ldm_core.job_warning import JobWarning, warnings_from_json
from ldm_core.params import (
    COUNTS_IN_TIMESTEPS,
    FREE_SIZE,
    MAX_GUIDANCE_SCALE,
    MAX_STEPS,
    SAMPLERS,
    SCHEDULES,
    GenerationParams,
    Sampler,
    Schedule,
    Task,
)

Positive = Annotated[int, Field(ge=1, le=2**31)]
Natural = Annotated[int, Field(ge=0, le=2**31)]
Guidance = Annotated[float, Field(ge=1, le=MAX_GUIDANCE_SCALE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The public description of one served model; sizes are of the output image, in pixels, (width, height)."""

    id: str
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    native_size: tuple[Positive, Positive]
    size_multiple: Positive
    max_pixels: Positive
    max_side: Natural = 0  # pixels; 0: any side, as long as there are no more than `max_pixels`
    default_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    default_guidance_scale: Guidance
    inpaint_guidance_scale: Guidance | None = None  # if it differs: strong guidance shows seams
    default_for: tuple[Task, ...] = ()
    max_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = MAX_STEPS  # timesteps of its noise schedule
    samplers: Annotated[tuple[Sampler, ...], Field(min_length=1)] = SAMPLERS
    default_sampler: Sampler = "ddim"  # that of the directory's own scheduler
    schedules: tuple[Schedule, ...] = SCHEDULES[:-1]  # of noise levels; "ays" is for the noise of Stable Diffusion 1
    default_schedule: Schedule = "uniform"  # likewise, for samplers that count in noise levels
    scale: Positive = 1
    # pixels of output along a side beyond which decoding and super-resolution work in windows; 0: never
    tile: Natural = 0
    text: bool = True
    vocabulary: tuple[str, ...] | None = None  # every word it was trained with; None: any text means something to it
    guidance: bool = True
    labels: tuple[str, ...] = ()  # names of classes or of things in maps and layouts, by id
    label_count: Natural = 0  # ids go from 0 to one below it; 0: this model knows no labels
    max_objects: Natural = 0  # in a layout
    max_neighbors: Natural = 0  # images that a retrieval-augmented model is given to look at
    neighbor_size: Natural = 0  # side of the square, in pixels, in which it sees each of them
    noise_level: Natural = 20  # super-resolution: how much noise goes onto the small image, an index of its schedule
    warnings: tuple[JobWarning, ...] = ()  # what of the directory is not followed; each of its jobs has them
    created: Natural = 0
    owned_by: str = "ldm-service"

    @property
    def min_side(self) -> int:
        """The smallest side an input image may have: one cell of the coarsest U-Net level."""
        return max(1, self.size_multiple // self.scale)

    def guidance_for(self, task: Task) -> float:
        """The guidance scale of a request that names none."""
        if task == "inpaint" and self.inpaint_guidance_scale is not None:
            return self.inpaint_guidance_scale
        return self.default_guidance_scale

    def sampler_for(self, eta: float) -> str:
        """The sampler of a request that names none; only DDIM has an η."""
        return "ddim" if eta and "ddim" in self.samplers else self.default_sampler

    def schedule_for(self, sampler: str) -> Schedule | None:
        """The spacing of noise levels of a request that names none; None where the timesteps have it."""
        return None if sampler in COUNTS_IN_TIMESTEPS or self.default_schedule == "uniform" else self.default_schedule

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists, "warnings": warnings_from_json(data.get("warnings", ()))})

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> ModelCard:
        """Reads what a worker of this or another version has published: what only that one knows is left out."""
        names = {each.name for each in fields(cls)}
        return cls.from_json({key: value for key, value in data.items() if key in names})

    def with_warnings(self, *warnings: JobWarning) -> ModelCard:
        return replace(self, warnings=(*self.warnings, *warnings))

    def check(self, params: GenerationParams) -> None:
        """Holds `params` against this model's limits. Raises UnsupportedTask or InvalidParameter."""
        self.check_task(params.task)
        if params.sampler not in self.samplers:
            raise InvalidParameter("sampler", f"model {self.id!r} takes {', '.join(self.samplers)}")
        if params.schedule is not None and params.schedule not in self.schedules:
            raise InvalidParameter("schedule", f"model {self.id!r} takes {', '.join(self.schedules)}")
        if params.steps > self.max_steps:
            raise InvalidParameter(
                "steps", f"must be at most {self.max_steps} for model {self.id!r}, got {params.steps}"
            )
        self._check_labels(params)
        if params.task in FREE_SIZE and params.strength is None:
            self._check_size(params.width, params.height)

    def _check_size(self, width: int, height: int) -> None:
        for name, value in (("width", width), ("height", height)):
            if value % self.size_multiple:
                limit = f"must be a multiple of {self.size_multiple}, got {value} ({self._limit(1)})"
                raise InvalidParameter(name, limit)
        if self._is_too_large(width, height):
            raise InvalidParameter("width", f"{width}x{height} is too large for model {self.id!r}: {self._limit(1)}")

    def _check_labels(self, params: GenerationParams) -> None:
        if params.guidance_scale != 1 and not self.guidance:
            raise InvalidParameter("guidance_scale", f"must be 1: model {self.id!r} knows no guidance")
        if (params.guidance_start, params.guidance_end) != (0, 1) and not self.guidance:
            name = "guidance_start" if params.guidance_start else "guidance_end"
            raise InvalidParameter(name, f"has no meaning: model {self.id!r} knows no guidance")
        if params.class_id is not None and not 0 <= params.class_id < self.label_count:
            raise InvalidParameter("class_id", f"must be 0 to {self.label_count - 1}, got {params.class_id}")
        if len(params.objects or ()) > self.max_objects:
            raise InvalidParameter("objects", f"must be at most {self.max_objects}, got {len(params.objects or ())}")
        for i, thing in enumerate(params.objects or ()):
            if not 0 <= thing.label < self.label_count:
                limit = f"must be 0 to {self.label_count - 1}, or one of the model's labels"
                raise InvalidParameter(f"objects/{i}/label", limit)

    def label_id(self, name: str) -> int | None:
        """The id of a label by its name, or by one of the names in it ("tench, Tinca tinca"); None: there is none."""
        wanted = name.strip().lower()
        names = [label.lower() for label in self.labels]
        if wanted in names:
            return names.index(wanted)
        return next((i for i, label in enumerate(names) if wanted in [part.strip() for part in label.split(",")]), None)

    def check_task(self, task: Task) -> None:
        if task not in self.tasks:
            raise UnsupportedTask("model", f"{self.id!r} does not do {task}; it does {', '.join(self.tasks)}")

    def check_input_size(self, field: str, width: int, height: int) -> None:
        """Holds an input image's size, in pixels, against this model's limits. Raises InvalidImage."""
        if min(width, height) < self.min_side:
            raise InvalidImage(field, f"is {width}x{height}, each side must be at least {self.min_side} pixels")
        self.check_max_pixels(field, width, height)

    def check_max_pixels(self, field: str, width: int, height: int) -> None:
        """Holds an input image against the largest this model takes. Raises InvalidImage."""
        if self._is_too_large(width * self.scale, height * self.scale):
            raise InvalidImage(
                field, f"is {width}x{height}, too large for model {self.id!r}: {self._limit(self.scale)}"
            )

    def _is_too_large(self, width: int, height: int) -> bool:
        return width * height > self.max_pixels or max(width, height) > (self.max_side or math.inf)

    def _limit(self, scale: int) -> str:
        """The largest size as people read it, of an image that comes out `scale` times as large."""
        side = math.isqrt(self.max_pixels) // self.size_multiple * self.size_multiple // scale
        if self.max_side:
            side = min(side, self.max_side // scale)
            return f"at most {side}x{side}"
        return f"at most {side}x{side}, or as many pixels in another shape"
