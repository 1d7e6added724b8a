"""What a model directory holds: which pipeline it was written for, and where its components lie. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_core.errors import ModelError

FIRST_STAGES = ("vae", "vqvae")
UNSCALED = "LDMSuperResolutionPipeline"  # decodes without scaling, whatever the configuration says
TEXT_COMPONENTS = ("text_encoder", "bert")
MODEL_TYPES = {"clip_text_model": "CLIPTextModel", "clip": "CLIPModel", "ldmbert": "LDMBertModel"}
CONDITIONS = (*TEXT_COMPONENTS, "condition")


@dataclass(frozen=True, slots=True)
class Components:
    """Paths of a model's parts; `condition` is None for an unconditional model, else `condition_class` names it."""

    pipeline: str
    unet: Path
    first_stage: Path
    scheduler: Path
    condition: Path | None
    condition_class: str | None


def find_components(root: Path) -> Components:
    """Reads `model_index.json`. Raises ModelError, naming what is missing or unknown."""
    file = root / "model_index.json"
    index = read_json(file)
    present = [name for name, value in index.items() if isinstance(value, list) and value[-1] is not None]
    for name in ("unet", "scheduler"):
        if name not in present:
            raise ModelError(file, f"component {name!r} is missing")
    first_stage = next((name for name in FIRST_STAGES if name in present), None)
    if first_stage is None:
        raise ModelError(file, f"component {FIRST_STAGES[0]!r} is missing")
    condition = next((name for name in CONDITIONS if name in present), None)
    if condition in TEXT_COMPONENTS and "tokenizer" not in present:
        raise ModelError(file, "component 'tokenizer' is missing")
    return Components(
        pipeline=str(index.get("_class_name", "")),
        unet=root / "unet",
        first_stage=root / first_stage,
        scheduler=root / "scheduler",
        condition=None if condition is None else root / condition,
        condition_class=None if condition is None else _class(root / condition),
    )


def _class(path: Path) -> str:
    """diffusers writes a component's class as `_class_name`, transformers as `architectures`."""
    config = read_json(path / "config.json")
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
    # published text encoders have lost it on their way now and then; their model type is always there
    return str(named or MODEL_TYPES.get(str(config.get("model_type")), "unnamed"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError naming the file."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(path, "is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(path, "is not a JSON object")
    return data


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON object, and the folders that lead to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n")
