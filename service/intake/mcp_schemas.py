"""The fields of the tools for assistants as JSON schemas: those of our requests, by what live workers serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldm_core.card import ModelCard
from ldm_core.params import MAX_IMAGES, Task
from service.intake.tasks import REQUESTS

TEXT = ("prompt", "negative_prompt")
ANY = ("model", "steps", "guidance_scale", "seed", "n", "format", "output_compression")
EARLIER: Mapping[str, Mapping[str, Any]] = {
    "job_id": {"type": "string", "description": "in place of `image`: the job that drew it"},
    "index": {"type": "integer", "minimum": 0, "maximum": MAX_IMAGES - 1,
              "description": "which of that job's images; 0 by default"},
}  # fmt: skip
FIELDS: Mapping[str, frozenset[str]] = {
    "generate_image": frozenset({*TEXT, *ANY, "width", "height", "upscale"}),
    "edit_image": frozenset({*TEXT, *ANY, *EARLIER, "image", "mask", "strength", "upscale"}),
    "upscale_image": frozenset({*TEXT, *ANY, *EARLIER, "image"}),
}
IMAGE = "PNG, JPEG or WebP, in base64 or as a data: URL"
SAID = {  # of our requests' fields, what is else here
    "image": IMAGE,
    "mask": f"{IMAGE}, as large as the image: white where it is drawn anew. Left out: all of the image changes",
    "model": "left out: the default for what is asked",
    "n": "how many images; 1 by default",
    "format": "of the images that are kept; png by default",
}
MOST_WORDS = 200  # of a vocabulary that a schema lists


def schema_of(tool: str, task: Task, masked: Task | None, cards: Sequence[ModelCard]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments; `cards` are the models that the caller may use."""
    able = [card for card in cards if task in card.tasks or masked in card.tasks]
    fields: dict[str, Any] = {}
    for request in (task, masked or task):
        fields |= _fields(REQUESTS[request].model_json_schema())
    known: dict[str, Any] = {name: fields.get(name) or EARLIER[name] for name in sorted(FIELDS[tool])}
    if not any(card.text for card in able):
        known = {name: field for name, field in known.items() if name not in TEXT}
    if not any("superres" in card.tasks for card in cards):
        known.pop("upscale", None)
    if able:
        known["model"] = {**known["model"], "enum": [card.id for card in able]}
        for name, more in _about(able).items():
            if name in known:
                described = (known[name].get("description"), more)
                known[name] = {**known[name], "description": "; ".join(filter(None, described))}
    required = [name for name in ("prompt",) if name in known and task == "txt2img"]
    return {"type": "object", "properties": known, "required": required, "additionalProperties": False}


def _fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a schema without references and without null, which assistants need not send."""
    found = {}
    for name, field in schema["properties"].items():
        about = {key: value for key, value in field.items() if key not in {"title", "anyOf"}}
        kind: dict[str, Any] = next((kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}), {})
        if "$ref" in kind:
            kind = schema["$defs"][kind["$ref"].rpartition("/")[2]]
        found[name] = {**about, **kind, **({"description": SAID[name]} if name in SAID else {})}
    return found


def _about(cards: Sequence[ModelCard]) -> dict[str, str]:
    """What there is to say of some fields by these models."""
    sizes = [
        f"{card.id}: {card.native_size[0]}x{card.native_size[1]} by default, multiples of {card.size_multiple}, "
        f"at most {card.max_pixels} pixels"
        for card in cards
    ]
    words = [
        f"{card.id} knows these words alone: {', '.join(card.vocabulary[:MOST_WORDS])}"
        for card in cards
        if card.vocabulary is not None
    ]
    size = "; ".join(sizes)
    return {"width": size, "height": size, **({"prompt": "; ".join(words)} if words else {})}
