"""A model directory's card, from its JSON files and the headers of its weights alone. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ldm_core.card import ModelCard
from ldm_core.errors import ModelError
from ldm_core.model_directory.components import WEIGHTLESS, Components, find_components, scheduler_settings
from ldm_core.model_directory.config_reader import ComponentNumbers
from ldm_core.model_directory.field_types import check_fields
from ldm_core.model_directory.foreign import SERVED, channels_kind, unet_kind
from ldm_core.model_directory.json_files import read_json
from ldm_core.model_directory.scheduler_config import SchedulerConfig
from ldm_core.model_directory.weight_files import check_headers
from ldm_core.params import FREE_SIZE, MAX_STEPS, SAMPLERS, SCHEDULES, Task

TEXT = ("CLIPTextModel", "LDMBertModel", "CLIPModel")
OTHERS: Mapping[tuple[str | None, str | None], Task] = {
    (None, ""): "unconditional",
    (None, "mask"): "inpaint",
    ("MaskedPicture", "mask"): "inpaint",
    ("ClassEmbedder", ""): "class2img",
    ("LayoutEncoder", ""): "layout2img",
    ("SpatialRescaler", "image"): "semantic2img",
}
MAX_NEIGHBORS = 20  # as many as the retrieval-augmented models were trained with
GUIDED = (*TEXT, "ClassEmbedder")  # condition encoders that know what no condition is
NOT_SETTINGS = ("id", "warnings")  # fields of a card that the directory itself gives


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
    tasks = _tasks(parts.condition_class, {0: "", latents + 1: "mask", 3: "image"}.get(extra))
    if not tasks:
        named = parts.condition_class or "no condition"
        raise ModelError(unet.file, f"{channels_kind(extra)} fit no task of {named}")
    _check_fit(parts, unet, latents)
    side = unet.number("sample_size", 64) * factor
    card: dict[str, Any] = {
        "tasks": tasks,
        "native_size": [side, side],
        "size_multiple": factor * 2 ** (unet.levels("block_out_channels", 4) - 1),
        # super-resolution works in windows throughout; other U-Nets see the whole of an image
        "max_pixels": 64 * side * side if "superres" in tasks else max(4 * side * side, 2**20),
        "default_steps": min(50, scheduler.num_train_timesteps),
        "max_steps": min(MAX_STEPS, scheduler.num_train_timesteps),
        "default_sampler": scheduler.sampler,
        "schedules": SCHEDULES if scheduler.of_stable_diffusion_1 else SCHEDULES[:-1],
        "default_schedule": scheduler.schedule,
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
    """How many labels, things or images a condition encoder takes."""
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
    if extra == "image" and condition in {None, *TEXT}:
        return ["superres"]
    if condition in TEXT:
        return [] if extra is None else ["txt2img", "inpaint"]
    return [task] if (task := OTHERS.get((condition, extra))) else []
