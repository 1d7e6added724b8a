"""One well-formed request for each task, in the sizes of whatever model serves it."""

from __future__ import annotations

from typing import Any

from tests.end_to_end.serving import Served, base64_picture

TASKS = ("txt2img", "inpaint", "superres")


def model_for(served: Served, task: str) -> dict[str, Any]:
    models = served.http.get("/v1/models").raise_for_status().json()["data"]
    return next(dict(model) for model in models if task in model["default_for"])


def output_size(served: Served, task: str) -> tuple[int, int]:
    width, height = model_for(served, task)["native_size"]
    return int(width), int(height)


def input_size(served: Served, task: str) -> tuple[int, int]:
    width, height = output_size(served, task)
    scale = model_for(served, task)["scale"] if task == "superres" else 1
    return width // scale, height // scale


def request(served: Served, task: str, **fields: Any) -> dict[str, Any]:
    """The JSON body of a request for `task`; `fields` come on top."""
    body: dict[str, Any] = {"steps": 3, "seed": 7, **fields}
    if task != "superres":
        body = {"prompt": "a red house by the sea", **body}
    if task != "txt2img":
        body = {"image": base64_picture(*input_size(served, task)), **body}
    if task == "inpaint":
        body = {"mask": base64_picture(*input_size(served, task), "L"), **body}
    return body
