"""What a model directory holds: which pipeline it was written for, and where its components lie. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_core.errors import ModelError
from ldm_core.job_warning import JobWarning
from ldm_core.model_directory.foreign import PARTS, SERVED, component_kind, describe, pipeline_kind
from ldm_core.model_directory.json_files import read_json as read_json
from ldm_core.model_directory.json_files import write_json as write_json

FIRST_STAGES = ("vae", "vqvae")
UNSCALED = "LDMSuperResolutionPipeline"  # decodes without scaling, whatever the configuration says
PIPELINES = (
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy", "StableDiffusionUpscalePipeline", "LDMPipeline", "LDMTextToImagePipeline",
    UNSCALED, "LatentDiffusion",
)  # fmt: skip
TEXT_COMPONENTS = ("text_encoder", "bert")
MODEL_TYPES = {"clip_text_model": "CLIPTextModel", "clip": "CLIPModel", "ldmbert": "LDMBertModel"}
CONDITIONS = (*TEXT_COMPONENTS, "condition")
CONDITION_CLASSES = (
    "CLIPTextModel", "CLIPModel", "LDMBertModel", "LayoutEncoder", "ClassEmbedder", "SpatialRescaler", "MaskedPicture",
)  # fmt: skip
WEIGHTLESS = ("MaskedPicture",)
CLASSES: Mapping[str, Sequence[str]] = {
    "unet": ("UNet2DConditionModel", "UNet2DModel"),
    **dict.fromkeys(FIRST_STAGES, ("AutoencoderKL", "VQModel")),
    **dict.fromkeys(CONDITIONS, CONDITION_CLASSES),
}
# components without which the images are the same
WITHOUT = ("feature_extractor", "watermarker", "tokenizer", "scheduler", "low_res_scheduler")
# components without which they are not, or not always
LEFT_OUT = {
    "safety_checker": "the directory's safety_checker is not run",
    "image_encoder": "the directory's image_encoder, which lets an IP-Adapter see images, is not used",
}
# keys of the index that change nothing
BOOKKEEPING = ("requires_safety_checker", "max_noise_level", "unet_version")
# diffusers' pipelines of Stable Diffusion overrule what early directories have
CORRECTED = tuple(name for name in PIPELINES if name.startswith("StableDiffusion") and "Upscale" not in name)
CORRECTION: Mapping[str, tuple[Any, Any]] = {"steps_offset": (0, 1), "clip_sample": (True, False)}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]*[\w-]")
CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class Components:
    """Paths of a model's parts, and the class of each by its folder's name.

    `condition` is None for an unconditional model, else `condition_class` names it.
    """

    pipeline: str
    unet: Path
    first_stage: Path
    scheduler: Path
    condition: Path | None
    condition_class: str | None
    classes: Mapping[str, str]
    warnings: tuple[JobWarning, ...] = ()


def find_components(root: Path) -> Components:
    """Reads `model_index.json`. Raises ModelError, naming what is missing, unknown or another family's."""
    file = root / "model_index.json"
    _check_place(root)
    index = read_json(file)
    pipeline = index.get("_class_name")
    if pipeline is not None and pipeline not in PIPELINES:
        raise ModelError(file, f"{pipeline_kind(str(pipeline))}; {SERVED}")
    present = _present(file, index)
    for name in ("unet", "scheduler"):
        if name not in present:
            raise ModelError(file, f"component {name!r} is missing")
    first_stage = next((name for name in FIRST_STAGES if name in present), None)
    if first_stage is None:
        raise ModelError(file, f"component {FIRST_STAGES[0]!r} is missing")
    condition = next((name for name in CONDITIONS if name in present), None)
    if condition in TEXT_COMPONENTS and "tokenizer" not in present:
        raise ModelError(file, "component 'tokenizer' is missing")
    if pipeline is None:
        raise ModelError(file, "names no pipeline (_class_name)")
    networks = ["unet", first_stage, *([] if condition is None else [condition])]
    classes = {name: _class(root / name, present[name], CLASSES[name]) for name in networks}
    return Components(
        pipeline=pipeline,
        unet=root / "unet",
        first_stage=root / first_stage,
        scheduler=root / "scheduler",
        condition=None if condition is None else root / condition,
        condition_class=None if condition is None else classes[condition],
        classes={**present, **classes},
        warnings=_warnings(file, index, present),
    )


def scheduler_settings(parts: Components, path: Path) -> tuple[dict[str, Any], Path]:
    """What a scheduler's folder says, and its file. The index names the class where the file does not."""
    file = path / "scheduler_config.json"
    settings = {"_class_name": parts.classes.get(path.name), **read_json(file)}
    if path == parts.scheduler and parts.pipeline in CORRECTED:
        settings |= {key: now for key, (early, now) in CORRECTION.items() if settings.get(key, early) == early}
    return settings, file


def _check_place(root: Path) -> None:
    """Raises ModelError where there is no directory, or one that is no model's, and says what to do instead."""
    if root.is_file():
        if root.suffix.lower() not in CHECKPOINTS:
            raise ModelError(root, "is a file; --model takes a model directory")
        made = f"ldm import --ckpt {root} --config YAML --out DIR, then --model DIR"
        raise ModelError(
            root, f"is a single file, not a model directory; if it is a checkpoint, make one of it: {made}"
        )
    if not root.exists():
        advice = ""
        if not root.is_absolute() and HUB_ID.fullmatch(str(root)):
            download = f"hf download {root} --local-dir DIR"
            advice = f"; models are not fetched from the hub: download it first ({download}), then --model DIR"
        raise ModelError(root, f"there is no such directory{advice}")
    if not root.is_dir():
        raise ModelError(root, "is not a directory")
    if not (root / "model_index.json").exists():
        try:
            raise ModelError(root / "model_index.json", describe(root))
        except OSError as error:
            raise ModelError(root, f"cannot be read: {error.strerror}") from None


def _present(file: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """The components that are there, and the class that the index names for each."""
    present = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            if name in {*WITHOUT, *LEFT_OUT, *CLASSES} and value is not None:
                raise ModelError(file, f"{name} = {_short(value)} is not [library, class]")
            continue
        if value == [None, None]:
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value):
            raise ModelError(file, f"{name} = {_short(value)} is not [library, class]")
        present[name] = value[1]
        if name in PARTS:
            raise ModelError(file, f"has the component {name!r}, so it is {PARTS[name]}; {SERVED}")
        if name not in {*WITHOUT, *LEFT_OUT, *CLASSES}:
            raise ModelError(file, f"has the component {name!r} ({value[1]}), which no model served here has; {SERVED}")
    return present


def _class(path: Path, indexed: str, known: Sequence[str]) -> str:
    """A component's class: diffusers writes it as `_class_name`, transformers as `architectures`. Raises ModelError."""
    file = path / "config.json"
    config = read_json(file)
    architectures = config.get("architectures") or ()
    if not isinstance(architectures, list | tuple):
        raise ModelError(file, f"architectures = {_short(architectures)} is not a list")
    # published text encoders have lost their class on the way now and then; the model type is always there
    model_type = MODEL_TYPES.get(str(config.get("model_type")))
    named = config.get("_class_name") or next(iter(architectures), None) or model_type or indexed
    if named not in known:
        raise ModelError(file, f"{component_kind(str(named))}; as {path.name!r} are known: {', '.join(known)}")
    return str(named)


def _warnings(file: Path, index: Mapping[str, Any], present: Mapping[str, str]) -> tuple[JobWarning, ...]:
    """What the index asks for beyond what is done."""
    left_out = [JobWarning(f"{name}_ignored", detail) for name, detail in LEFT_OUT.items() if name in present]
    unknown = [
        JobWarning(
            "directory_setting_ignored", f"{file.name}: {name} = {_short(value)} is not known here and not followed"
        )
        for name, value in index.items()
        if not name.startswith("_") and not isinstance(value, list) and name not in BOOKKEEPING
        if value not in (None, False)
    ]
    return (*left_out, *unknown)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
