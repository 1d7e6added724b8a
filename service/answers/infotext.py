"""What a PNG says of how it was made, as AUTOMATIC1111 writes it and as this server's own API does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from service.intake.web_ui import FIELDS
from service.intake.web_ui_names import label_of
from worker.jobs import JobView

NEGATIVE = "Negative prompt: "
FIELD = re.compile(r'\s*(\w[\w \-/]{1,40}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
FEWEST = 3  # fields that make a line one of parameters, not of a prompt
MAX_LINE = 4096  # characters


def infotext(params: Mapping[str, Any], model: str, seed: int, extra: Mapping[str, Any] | None = None) -> str:
    """The text for one image of a job with `params`, those of `GenerationParams.to_json`."""
    fields = {
        "Steps": params["steps"], "Sampler": label_of(str(params["sampler"])), "CFG scale": params["guidance_scale"],
        "Seed": seed, "Size": f"{params['width']}x{params['height']}", "Model": model,
        "Denoising strength": params.get("strength"), "Eta": params.get("eta") or None, **(extra or {}),
        "Version": "ldm-service",
    }  # fmt: skip
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items() if value is not None)
    negative = f"{NEGATIVE}{params['negative_prompt']}" if params["negative_prompt"] else ""
    return "\n".join(part for part in (str(params["prompt"]), negative, line) if part)


def infotext_of(view: JobView, index: int, extra: Mapping[str, Any] | None = None) -> str:
    """The text for image `index` of a job."""
    payload = view.payload
    return infotext(payload.params.to_json(), payload.model, payload.params.image_seed(index), extra)


def read_infotext(text: str) -> str:
    """The text that a PNG holds, in AUTOMATIC1111's form also where this server's own API wrote it."""
    try:
        params = json.loads(text)
        return infotext({"prompt": "", "negative_prompt": "", **params}, str(params["model"]), int(params["seed"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def parsed(text: str) -> dict[str, str]:
    """The prompts and parameters in a text, by AUTOMATIC1111's names; nothing for an empty one."""
    *lines, last = text.strip().split("\n")
    found = FIELD.findall(last) if len(last) <= MAX_LINE else []
    if len(found) < FEWEST:
        lines, found = [*lines, last], []
    at = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE.strip())), len(lines))
    negative = "\n".join(lines[at:]).removeprefix(NEGATIVE.strip()).strip()
    fields = {name: _unquoted(value) for name, value in found}
    if size := re.fullmatch(r"(\d{1,9})x(\d{1,9})", fields.get("Size", "")):
        del fields["Size"]
        fields |= {"Size-1": size[1], "Size-2": size[2]}
    prompt = "\n".join(lines[:at]).strip()
    return {"Prompt": prompt, "Negative prompt": negative, **fields} if text.strip() else {}


def web_ui_info(view: JobView, batch_size: int, texts: list[str]) -> dict[str, Any]:
    """What AUTOMATIC1111's API tells of the images of a job, and our id and warnings."""
    params, n = view.payload.params, len(texts)
    return {
        "prompt": params.prompt, "all_prompts": [params.prompt] * n, "negative_prompt": params.negative_prompt,
        "all_negative_prompts": [params.negative_prompt] * n, "seed": params.seed,
        "all_seeds": [params.image_seed(i) for i in range(n)], "subseed": params.seed,
        "all_subseeds": [params.seed] * n, "subseed_strength": 0, "width": params.width, "height": params.height,
        "sampler_name": label_of(params.sampler), "cfg_scale": params.guidance_scale, "steps": params.steps,
        "batch_size": batch_size, "restore_faces": False, "face_restoration_model": None,
        "sd_model_name": view.payload.model, "sd_model_hash": None, "sd_vae_name": None, "sd_vae_hash": None,
        "seed_resize_from_w": -1, "seed_resize_from_h": -1, "denoising_strength": params.strength,
        "extra_generation_params": {}, "index_of_first_image": 0, "infotexts": texts, "styles": [],
        "job_timestamp": time_stamp(view), "clip_skip": 1, "is_using_inpainting_conditioning": False,
        "version": "ldm-service", "job_id": view.payload.id, "warnings": web_ui_warnings(view),
    }  # fmt: skip


def web_ui_warnings(view: JobView) -> list[dict[str, str]]:
    """A job's warnings, with fields by the names of that API."""
    theirs = {f"/{ours}": f"/{name}" for ours, name in FIELDS.items()}
    return [{**warning.to_json(), "pointer": theirs.get(warning.pointer, warning.pointer)} for warning in view.warnings]


def time_stamp(view: JobView) -> str:
    """When a job was made, in UTC, in digits."""
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(view.created_at))


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,\n:]", text) else text


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value
