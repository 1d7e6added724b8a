"""What one job asks of the sampler, checked once here for every caller: gateway, worker and library. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, floor
from typing import Any, Literal, NamedTuple, get_args

from ldm_core.errors import InvalidParameter

Task = Literal["txt2img", "inpaint", "superres", "class2img", "semantic2img", "layout2img", "unconditional"]
TASKS: tuple[Task, ...] = get_args(Task)
FREE_SIZE: tuple[Task, ...] = ("txt2img", "class2img", "layout2img", "unconditional")  # no image gives the size
NEEDS: Mapping[Task, str] = {"class2img": "class_id", "layout2img": "objects"}  # a field that is not optional there

# the names in `ldm_core.sampling.samplers`
Sampler = Literal[
    "ddim", "ddpm", "plms", "dpmpp_2m", "euler", "euler_a", "dpmpp_2m_sde", "unipc", "heun", "lms", "deis", "lcm",
    "tcd", "dpmpp_sde",
]  # fmt: skip
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
# how noise levels are spaced; "uniform" is the model's own spacing of timesteps
Schedule = Literal["uniform", "karras", "exponential", "sgm_uniform", "ays"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
COUNTS_IN_TIMESTEPS: frozenset[Sampler] = frozenset({"ddim", "ddpm", "plms", "lcm", "tcd"})
SCALED_BY_ETA: frozenset[Sampler] = frozenset({"ddim", "tcd"})
EVALUATED_TWICE: frozenset[Sampler] = frozenset({"heun", "dpmpp_sde"})  # in every step but the last

LATER = frozenset({"guidance_start", "guidance_end", "schedule"})  # fields that came after the first release
ROUNDING = 1e-9  # 0.3 of 10 steps are three, whatever 0.3 is in binary
MAX_PROMPT_CHARS = 2000
MAX_STEPS = 1000
MAX_GUIDANCE_SCALE = 30.0
MAX_SEED = 2**32 - 1
MAX_IMAGES = 8


class LayoutObject(NamedTuple):
    """A thing in a layout: its label's id, and its box as shares of width and height."""

    label: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """One job's sampling parameters with every default resolved.

    `width` and `height` are those of the *output* in pixels, for every task. Image i of the job uses the seed
    `image_seed(i)`. Raises InvalidParameter.
    """

    task: Task
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    prompt: str = ""
    negative_prompt: str = ""
    sampler: str = "ddim"
    eta: float = 0.0
    n: int = 1
    strength: float | None = None  # image to image: the share of the steps that are run
    class_id: int | None = None
    objects: tuple[LayoutObject, ...] | None = None
    guidance_start: float = 0.0  # shares of the run between which guidance is computed
    guidance_end: float = 1.0
    schedule: str | None = None  # how noise levels are spaced; None: as the model's timesteps are

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InvalidParameter("task", f"must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.task in NEEDS and getattr(self, NEEDS[self.task]) is None:
            raise InvalidParameter(NEEDS[self.task], f"is required for {self.task}")
        for name in ("prompt", "negative_prompt"):
            if len(getattr(self, name)) > MAX_PROMPT_CHARS:
                raise InvalidParameter(
                    name, f"must be at most {MAX_PROMPT_CHARS} characters, got {len(getattr(self, name))}"
                )
        _check_range("width", self.width, 1, None)
        _check_range("height", self.height, 1, None)
        _check_range("steps", self.steps, 1, MAX_STEPS)
        _check_range("guidance_scale", self.guidance_scale, 1.0, MAX_GUIDANCE_SCALE)
        _check_range("guidance_start", self.guidance_start, 0.0, 1.0)
        _check_range("guidance_end", self.guidance_end, 0.0, 1.0)
        if self.guidance_start >= self.guidance_end:
            detail = f"must be greater than guidance_start, {self.guidance_start}; got {self.guidance_end}"
            raise InvalidParameter("guidance_end", detail)
        _check_range("eta", self.eta, 0.0, 1.0)
        if self.eta and self.sampler not in SCALED_BY_ETA:
            raise InvalidParameter("eta", f"is for the samplers 'ddim' and 'tcd' alone, not for {self.sampler!r}")
        self._check_schedule()
        if self.strength is not None:
            _check_range("strength", self.strength, 0.0, 1.0)
        _check_range("seed", self.seed, 0, MAX_SEED)
        _check_range("n", self.n, 1, MAX_IMAGES)
        for i, thing in enumerate(self.objects or ()):
            if not (0 <= thing.x0 < thing.x1 <= 1 and 0 <= thing.y0 < thing.y1 <= 1):
                raise InvalidParameter(
                    f"objects/{i}/box", "must be [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1, y likewise"
                )

    def _check_schedule(self) -> None:
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise InvalidParameter("schedule", f"must be one of {', '.join(SCHEDULES)}, got {self.schedule!r:.60}")
        if self.schedule not in {None, "uniform"} and self.sampler in COUNTS_IN_TIMESTEPS:
            others = ", ".join(name for name in SAMPLERS if name not in COUNTS_IN_TIMESTEPS)
            detail = f"has no meaning for the sampler {self.sampler!r}, which counts in timesteps; it has for {others}"
            raise InvalidParameter("schedule", detail)

    @property
    def rows_per_image(self) -> int:
        """U-Net rows an image takes at most: two with classifier-free guidance, one without."""
        return 1 if self.guidance_scale == 1.0 else 2

    def guided_steps(self, steps: int) -> range:
        """Which of a run's steps compute guidance: those that lie between `guidance_start` and `guidance_end`."""
        return range(ceil(self.guidance_start * steps - ROUNDING), floor(self.guidance_end * steps + ROUNDING))

    def image_seed(self, index: int) -> int:
        """The seed of image `index`; equal to that of a job of its own with that seed."""
        return (self.seed + index) % (MAX_SEED + 1)

    def to_json(self) -> dict[str, Any]:
        """Without what does not apply; LATER fields only where they are set, for readers that do not know them."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {
            name: value
            for name, (value, default) in values.items()
            if value is not None and (name not in LATER or value != default)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GenerationParams:
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise InvalidParameter(sorted(unknown)[0], "is not a sampling parameter")
        objects = data.get("objects")
        if objects is not None:
            data = {**data, "objects": tuple(LayoutObject(*thing) for thing in objects)}
        return cls(**data)


def _check_range(field: str, value: float, low: float, high: float | None) -> None:
    # `not (low <= value)` rather than `value < low`, so that NaN is refused too
    if not low <= value or (high is not None and not value <= high):
        limit = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidParameter(field, f"must be {limit}, got {value}")
