"""What a model says of itself: `service.json` beside its weights, and the card that `/v1/models` shows. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ldm_core.errors import InvalidImage, InvalidParameter, UnsupportedTask
from ldm_core.params import GenerationParams, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The public description of one served model; sizes are of the output picture, in pixels, (width, height)."""

    id: str
    tasks: tuple[Task, ...]
    native_size: tuple[int, int]
    size_multiple: int
    max_pixels: int
    default_steps: int
    default_guidance_scale: float
    default_for: tuple[Task, ...] = ()
    samplers: tuple[str, ...] = ("ddim",)
    scale: int = 1
    text: bool = True
    noise_level: int = 20  # super-resolution: how much noise goes onto the small picture, an index of its schedule
    created: int = 0
    owned_by: str = "ldm-service"

    @property
    def min_side(self) -> int:
        """The smallest side an input picture may have: one cell of the coarsest U-Net level."""
        return max(1, self.size_multiple // self.scale)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists})

    def with_id(self, model_id: str) -> ModelCard:
        return replace(self, id=model_id)

    def check(self, params: GenerationParams) -> None:
        """Holds `params` against this model's limits. Raises UnsupportedTask or InvalidParameter."""
        self.check_task(params.task)
        if params.sampler not in self.samplers:
            raise InvalidParameter("sampler", f"model {self.id!r} takes {', '.join(self.samplers)}")
        if params.task == "txt2img":
            for name in ("width", "height"):
                value = getattr(params, name)
                if value % self.size_multiple:
                    raise InvalidParameter(name, f"must be a multiple of {self.size_multiple}, got {value}")
            if params.width * params.height > self.max_pixels:
                raise InvalidParameter(
                    "width", f"{params.width}x{params.height} is over this model's {self.max_pixels} pixels"
                )

    def check_task(self, task: Task) -> None:
        if task not in self.tasks:
            raise UnsupportedTask("model", f"{self.id!r} does not do {task}; it does {', '.join(self.tasks)}")

    def check_input_size(self, field: str, width: int, height: int) -> None:
        """Holds an input picture's size, in pixels, against this model's limits. Raises InvalidImage."""
        if min(width, height) < self.min_side:
            raise InvalidImage(field, f"is {width}x{height}, each side must be at least {self.min_side} pixels")
        if width * height * self.scale**2 > self.max_pixels:
            limit = self.max_pixels // self.scale**2
            raise InvalidImage(field, f"is {width}x{height}, at most {limit} pixels are taken by model {self.id!r}")
