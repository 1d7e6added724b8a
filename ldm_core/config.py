"""What a model says of itself: `service.json` beside its weights, and the card that `/v1/models` shows. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ldm_core.component import ComponentNumbers
from ldm_core.directory import WEIGHTLESS, Components, find_components, scheduler_settings
from ldm_core.errors import InvalidImage, InvalidParameter, ModelError, UnsupportedTask
from ldm_core.field_types import check_fields
from ldm_core.foreign import SERVED, channels_kind, unet_kind
from ldm_core.job_warning import JobWarning, warnings_from_json
from ldm_core.json_files import read_json
from ldm_core.params import MAX_GUIDANCE_SCALE, MAX_STEPS, SAMPLERS, GenerationParams, Sampler, Task
from ldm_core.scheduler_config import SchedulerConfig
from ldm_core.weight_files import check_headers

TEXT = ("CLIPTextModel", "LDMBertModel", "CLIPModel")
OTHERS: Mapping[tuple[str | None, str | None], Task] = {
    (None, ""): "unconditional",
    (None, "hole"): "inpaint",
    ("MaskedPicture", "hole"): "inpaint",
    ("ClassEmbedder", ""): "class2img",
    ("LayoutEncoder", ""): "layout2img",
    ("SpatialRescaler", "picture"): "semantic2img",
}
FREE_SIZE: tuple[Task, ...] = ("txt2img", "class2img", "layout2img", "unconditional")  # no picture gives the size
MAX_NEIGHBORS = 20  # as many as the retrieval-augmented models were trained with
GUIDED = (*TEXT, "ClassEmbedder")  # condition encoders that know what no condition is
NOT_SETTINGS = ("id", "warnings")  # fields of a card that the directory itself gives
Positive = Annotated[int, Field(ge=1, le=2**31)]
Natural = Annotated[int, Field(ge=0, le=2**31)]
Guidance = Annotated[float, Field(ge=1, le=MAX_GUIDANCE_SCALE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The public description of one served model; sizes are of the output picture, in pixels, (width, height)."""

    id: str
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    native_size: tuple[Positive, Positive]
    size_multiple: Positive
    max_pixels: Positive
    max_side: Natural = 0  # pixels; 0: any side, as long as there are no more than `max_pixels`
    default_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    default_guidance_scale: Guidance
    inpaint_guidance_scale: Guidance | None = None  # where it is not the other tasks': strong guidance shows as a seam
    default_for: tuple[Task, ...] = ()
    max_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = MAX_STEPS  # timesteps of its noise schedule
    samplers: Annotated[tuple[Sampler, ...], Field(min_length=1)] = SAMPLERS
    default_sampler: Sampler = "ddim"  # that of the directory's own scheduler
    scale: Positive = 1
    # pixels of output along a side beyond which decoding and super-resolution work in windows; 0: never
    tile: Natural = 0
    text: bool = True
    vocabulary: tuple[str, ...] | None = None  # every word it was trained with; None: any text means something to it
    guidance: bool = True
    labels: tuple[str, ...] = ()  # names of classes or of things in maps and layouts, by id
    label_count: Natural = 0  # ids go from 0 to one below it; 0: this model knows no labels
    max_objects: Natural = 0  # in a layout
    max_neighbors: Natural = 0  # pictures that a retrieval-augmented model is given to look at
    neighbor_size: Natural = 0  # side of the square, in pixels, in which it sees each of them
    noise_level: Natural = 20  # super-resolution: how much noise goes onto the small picture, an index of its schedule
    warnings: tuple[JobWarning, ...] = ()  # what of the directory is not followed; each of its jobs has them
    created: Natural = 0
    owned_by: str = "ldm-service"

    @property
    def min_side(self) -> int:
        """The smallest side an input picture may have: one cell of the coarsest U-Net level."""
        return max(1, self.size_multiple // self.scale)

    def guidance_for(self, task: Task) -> float:
        """The guidance scale of a request that names none."""
        if task == "inpaint" and self.inpaint_guidance_scale is not None:
            return self.inpaint_guidance_scale
        return self.default_guidance_scale

    def sampler_for(self, eta: float) -> str:
        """The sampler of a request that names none; only DDIM has an η."""
        return "ddim" if eta and "ddim" in self.samplers else self.default_sampler

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

    def with_id(self, model_id: str) -> ModelCard:
        return replace(self, id=model_id)

    def with_warnings(self, *warnings: JobWarning) -> ModelCard:
        return replace(self, warnings=(*self.warnings, *warnings))

    def check(self, params: GenerationParams) -> None:
        """Holds `params` against this model's limits. Raises UnsupportedTask or InvalidParameter."""
        self.check_task(params.task)
        if params.sampler not in self.samplers:
            raise InvalidParameter("sampler", f"model {self.id!r} takes {', '.join(self.samplers)}")
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
                raise InvalidParameter(name, f"must be a multiple of {self.size_multiple}, got {value}")
        if self._is_too_large(width, height):
            raise InvalidParameter("width", f"{width}x{height} is too large for model {self.id!r}: {self._limit(1)}")

    def _check_labels(self, params: GenerationParams) -> None:
        if params.guidance_scale != 1 and not self.guidance:
            raise InvalidParameter("guidance_scale", f"must be 1: model {self.id!r} knows no guidance")
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
        """Holds an input picture's size, in pixels, against this model's limits. Raises InvalidImage."""
        if min(width, height) < self.min_side:
            raise InvalidImage(field, f"is {width}x{height}, each side must be at least {self.min_side} pixels")
        self.check_max_pixels(field, width, height)

    def check_max_pixels(self, field: str, width: int, height: int) -> None:
        """Holds an input picture against the largest this model takes. Raises InvalidImage."""
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


def read_card(directory: Path | str) -> ModelCard:
    """The card of a model directory from its JSON files alone. Raises ModelError naming the file."""
    root = Path(directory)
    parts = find_components(root)
    unet, first_stage = (ComponentNumbers(path / "config.json") for path in (parts.unet, parts.first_stage))
    scheduler = SchedulerConfig.from_json(*scheduler_settings(parts, parts.scheduler))
    latents = first_stage.number("latent_channels", 4)
    factor = 2 ** (first_stage.levels("block_out_channels", 1) - 1)
    extra = unet.number("in_channels", 4) - latents
    if (foreign := unet_kind(unet.data)) is not None:
        raise ModelError(unet.file, f"{foreign}; {SERVED}")
    tasks = _tasks(parts.condition_class, {0: "", latents + 1: "hole", 3: "picture"}.get(extra))
    if not tasks:
        named = parts.condition_class or "no condition"
        raise ModelError(unet.file, f"{channels_kind(extra)} fit no task of {named}")
    _check_fit(parts, unet, latents)
    side = unet.number("sample_size", 64) * factor
    card: dict[str, Any] = {
        "tasks": tasks,
        "native_size": [side, side],
        "size_multiple": factor * 2 ** (unet.levels("block_out_channels", 4) - 1),
        # super-resolution works in windows throughout; other U-Nets see the whole of a picture
        "max_pixels": 64 * side * side if "superres" in tasks else max(4 * side * side, 2**20),
        "default_steps": min(50, scheduler.num_train_timesteps),
        "max_steps": min(MAX_STEPS, scheduler.num_train_timesteps),
        "default_sampler": scheduler.sampler,
        "default_guidance_scale": 7.5 if parts.condition_class in GUIDED else 1.0,
        "scale": factor if "superres" in tasks else 1,
        "tile": 2 * side,
        "text": parts.condition_class in TEXT,
        "guidance": parts.condition_class in GUIDED,
        **({} if parts.condition is None else _takes(ComponentNumbers(parts.condition / "config.json"))),
    }
    service = root / "service.json"
    card |= _service_settings(service, card) if service.exists() else {}
    return ModelCard.from_json({**card, "id": root.resolve().name}).with_warnings(*parts.warnings, *scheduler.warnings)


def _check_fit(parts: Components, unet: ComponentNumbers, latents: int) -> None:
    """Whether the networks are made for each other. Raises ModelError."""
    if (out := unet.number("out_channels", latents)) != latents:
        raise ModelError(unet.file, f"out_channels = {out}, the latents of {parts.first_stage.name} have {latents}")
    if parts.condition is None or parts.condition_class != "CLIPTextModel":
        return
    width = unet.number("cross_attention_dim", 1280)
    if (given := ComponentNumbers(parts.condition / "config.json").number("hidden_size", width)) != width:
        raise ModelError(unet.file, f"cross_attention_dim = {width}, {parts.condition.name} gives {given}")


def check_directories(directories: Sequence[Path]) -> None:
    """Everything that can be said against models without torch: ids, JSON files, headers of weights.

    A model's id is its directory's name. Raises ModelError.
    """
    seen: dict[str, Path] = {}
    for directory in directories:
        name = directory.resolve().name
        if name in seen:
            detail = f"is a second model called {name!r} beside {seen[name]}; directory names are ids and must differ"
            raise ModelError(directory, detail)
        seen[name] = directory
    for directory in directories:
        read_card(directory)
        parts = find_components(directory)
        for path in (parts.unet, parts.first_stage, parts.condition):
            if path is not None and parts.classes[path.name] not in WEIGHTLESS:
                check_headers(path)


def _service_settings(file: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """What the operator says of a model, over what its files say. Raises ModelError naming the key."""
    given = read_json(file)
    known = [field.name for field in fields(ModelCard) if field.name not in NOT_SETTINGS]
    for key in given:
        if key not in known:
            raise ModelError(file, f"unknown key {key!r}; known are {', '.join(known)}")
    settings = check_fields(ModelCard, given, file)
    merged = {**card, **settings}
    for key, allowed in (("tasks", card["tasks"]), ("default_for", merged["tasks"])):
        for task in settings.get(key, ()):
            if task not in allowed:
                raise ModelError(file, f"{key}: this model does not do {task}; it does {', '.join(allowed)}")
    samplers = merged.get("samplers", SAMPLERS)
    if merged["default_sampler"] not in samplers:
        if "default_sampler" in settings:
            raise ModelError(file, f"default_sampler = {merged['default_sampler']!r} is not among the samplers given")
        settings["default_sampler"] = samplers[0]
    for key in ("default_steps", "max_steps"):
        limit = min(card["max_steps"], merged["max_steps"])
        if key in settings and settings[key] > limit:
            raise ModelError(file, f"{key} = {settings[key]} is over the {limit} steps of this model")
    if {"native_size", "max_pixels"} & settings.keys() and set(merged["tasks"]) & set(FREE_SIZE):
        _check_native_size(file, merged)
    if "label_count" in settings or "labels" in settings:
        count = merged.get("label_count", 0)
        if len(merged.get("labels", ())) > count:
            raise ModelError(file, f"labels: {len(merged['labels'])} names, the model has {count} labels")
    return settings


def _check_native_size(file: Path, card: Mapping[str, Any]) -> None:
    """Whether a request that names no size can be served. Raises ModelError."""
    width, height = card["native_size"]
    if width % card["size_multiple"] or height % card["size_multiple"]:
        raise ModelError(file, f"native_size: {width} and {height} must be multiples of {card['size_multiple']}")
    if width * height > card["max_pixels"]:
        raise ModelError(file, f"native_size: {width}x{height} is over max_pixels = {card['max_pixels']}")


def _takes(condition: ComponentNumbers) -> dict[str, Any]:
    """How many labels, things or pictures a condition encoder takes."""
    match condition.data.get("_class_name"):
        case "ClassEmbedder":
            if condition.data.get("unconditional_class") is None:
                count = condition.number("n_classes", 1001)
                return {"label_count": count, "guidance": False, "default_guidance_scale": 1.0}
            return {"label_count": condition.number("unconditional_class", 1000)}
        case "SpatialRescaler":
            return {"label_count": condition.number("in_channels", 182)}
        case "LayoutEncoder":
            return {
                "label_count": condition.number("vocab_size", 0) - 1,  # the last one stands for nothing
                "max_objects": (condition.number("max_position_embeddings", 0) - 2) // 3,
            }
        case None if condition.data.get("model_type") == "clip":
            side = condition.part("vision_config").number("image_size", 224)
            return {"max_neighbors": MAX_NEIGHBORS, "neighbor_size": side}
    return {}


def _tasks(condition: str | None, extra: str | None) -> list[Task]:
    """What a model can do, by its condition encoder and by what goes behind the latents."""
    if extra == "picture" and condition in {None, *TEXT}:
        return ["superres"]
    if condition in TEXT:
        return [] if extra is None else ["txt2img", "inpaint"]
    return [task] if (task := OTHERS.get((condition, extra))) else []
