"""What a model says of itself: `service.json` beside its weights, and the card that `/v1/models` shows. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ldm_core.directory import find_components, read_json
from ldm_core.errors import InvalidImage, InvalidParameter, ModelError, UnsupportedTask
from ldm_core.params import SAMPLERS, GenerationParams, Task

TEXT = ("CLIPTextModel", "LDMBertModel")
OTHERS: Mapping[tuple[str | None, str | None], Task] = {
    (None, ""): "unconditional",
    (None, "hole"): "inpaint",
    ("MaskedPicture", "hole"): "inpaint",
    ("ClassEmbedder", ""): "class2img",
    ("LayoutEncoder", ""): "layout2img",
    ("SpatialRescaler", "picture"): "semantic2img",
}
GUIDED = (*TEXT, "ClassEmbedder")  # condition encoders that know what no condition is


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
    samplers: tuple[str, ...] = SAMPLERS
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


def read_card(directory: Path | str) -> ModelCard:
    """The card of a model directory from its JSON files alone. Raises ModelError naming the file."""
    root = Path(directory)
    parts = find_components(root)
    unet, first_stage = read_json(parts.unet / "config.json"), read_json(parts.first_stage / "config.json")
    latents = int(first_stage.get("latent_channels", 4))
    factor = 2 ** (len(first_stage.get("block_out_channels", (64,))) - 1)
    extra = int(unet.get("in_channels", 4)) - latents
    tasks = _tasks(parts.condition_class, {0: "", latents + 1: "hole", 3: "picture"}.get(extra))
    if not tasks:
        named = parts.condition_class or "no condition"
        raise ModelError(parts.unet / "config.json", f"{extra} channels behind the latents fit no task of {named}")
    side = int(unet.get("sample_size") or 64) * factor
    card: dict[str, Any] = {
        "tasks": tasks,
        "native_size": [side, side],
        "size_multiple": factor * 2 ** (len(unet.get("block_out_channels", (320, 640, 1280, 1280))) - 1),
        "max_pixels": 4 * side * side,
        "default_steps": 50,
        "default_guidance_scale": 7.5 if parts.condition_class in GUIDED else 1.0,
        "scale": factor if "superres" in tasks else 1,
        "text": parts.condition_class in TEXT,
    }
    if (root / "service.json").exists():
        card.update(read_json(root / "service.json"))
    try:
        return ModelCard.from_json({**card, "id": root.resolve().name})
    except TypeError as error:
        raise ModelError(root / "service.json", str(error).split(") ", 1)[-1]) from None


def _tasks(condition: str | None, extra: str | None) -> list[Task]:
    """What a model can do, by its condition encoder and by what goes behind the latents."""
    if extra == "picture" and condition in {None, *TEXT}:
        return ["superres"]
    if condition in TEXT:
        return [] if extra is None else ["txt2img", "inpaint"]
    return [task] if (task := OTHERS.get((condition, extra))) else []
