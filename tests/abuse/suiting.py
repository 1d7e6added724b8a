"""Makes a request that the OpenAPI calls valid one that suits a model.

What a schema cannot say (an image that decodes, a size that is a multiple, fields that do not go together) is put
right; everything else stays as it was generated, and the gateway has to take it.
"""

from __future__ import annotations

import base64
from typing import Any

from schemathesis.transport.serialization import Binary

from ldm_core.params import COUNTS_IN_TIMESTEPS
from tests.abuse.corpus import encoded, gradient

PICTURE = encoded(gradient("RGB", 32), "PNG")
MASK = encoded(gradient("L", 32), "PNG")
MAP = encoded(gradient("L", 32).point(lambda level: level % 10), "PNG")
FILES = {"image": PICTURE, "mask": MASK, "map": MAP}
BOX = [0.1, 0.2, 0.5, 0.9]
OPENAI = ("generations", "edits", "variations")
TEXTLESS = ("class2img", "semantic2img", "layout2img")


def suit(task: str, body: dict[str, Any], *, form: bool) -> dict[str, Any]:
    """The body after its corrections; `form`: with file parts instead of base64."""
    files = {name: Binary(data) if form else base64.b64encode(data).decode() for name, data in FILES.items()}
    body = {name: value for name, value in body.items() if name not in {"model", "neighbors", "webhook"}}
    body |= {name: data for name, data in files.items() if body.get(name) is not None}
    for name in ("width", "height"):
        if body.get(name) is not None:
            body[name] = 64
            if body.get("image") is not None:
                del body[name]
    if body.get("timeout") is not None:
        body["timeout"] = min(body["timeout"], 600)  # the operator's limit
    if task == "inpaint":
        body["mask"] = files["mask"]
    if body.get("image") is None or body.get("mask") is not None:
        body.pop("strength", None)
    if body.get("sampler", "ddim") != "ddim":
        body.pop("eta", None)
    if body.get("sampler") in {None, *COUNTS_IN_TIMESTEPS} or body.get("schedule") == "ays":
        body.pop("schedule", None)
    if body.get("guidance_end") == 0:
        del body["guidance_end"]
    if (body.get("guidance_start") or 0) >= (1 if body.get("guidance_end") is None else body["guidance_end"]):
        del body["guidance_start"]
    if task in TEXTLESS:
        body.pop("prompt", None)
        body.pop("negative_prompt", None)
    if task == "class2img":
        body.pop("class_name", None)
        body["class_id"] = (body.get("class_id") or 0) % 10
    if task == "layout2img":
        body["objects"] = [{"label": i, "box": BOX} for i in range(min(10, len(body["objects"])))]
    if task in OPENAI:
        body = {name: value for name, value in body.items() if name not in {"width", "height", "output_format"}}
        body.update({"size": "64x64"} if body.get("size") is not None and task == "generations" else {"size": "auto"})
        if body.get("image") is not None:
            body["size"] = "auto"
        body.pop("background", None)
        body.pop("stream", None)  # an answer without an end is not held against a schema
    if len(str(body.get("metadata")).encode()) > 1000:
        del body["metadata"]
    return body
