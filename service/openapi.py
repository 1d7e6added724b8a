"""What OpenAPI cannot see for itself: two content types on one route, examples, and the errors as problems."""

from __future__ import annotations

from typing import Any

from ldm_core.params import Task
from service.errors import PROBLEM_JSON
from service.schemas import REQUESTS

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
DESCRIPTIONS = {
    400: "The body cannot be parsed",
    404: "No such job: unknown, or expired",
    408: "The body was not complete in time",
    409: "The job is not finished",
    413: "The body is too large",
    415: "Neither JSON nor multipart/form-data",
    422: "A field is at fault; `errors` names each one and its limit",
    429: "The queue is full; see Retry-After",
    503: "The queue cannot be reached or no worker is there; see Retry-After",
    504: "The job's time was up",
}
EXAMPLES: dict[Task, dict[str, Any]] = {
    "txt2img": {"prompt": "a red house by the sea at sunset", "seed": 7},
    "inpaint": {"prompt": "a blue house by the sea", "image": "iVBORw0KGgo…", "mask": "iVBORw0KGgo…"},
    "superres": {"image": "iVBORw0KGgo…"},
    "class2img": {"class_id": 207, "guidance_scale": 3.0},
    "semantic2img": {"map": "iVBORw0KGgo…"},
    "layout2img": {"objects": [{"label": "Tree", "box": [0.1, 0.2, 0.5, 0.9]}]},
    "unconditional": {"seed": 7},
}
FILES = ("image", "mask", "map")  # fields that hold pictures
IMAGE_CONTENT: dict[str, Any] = {
    kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg", "image/webp")
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these errors."""
    content = {PROBLEM_JSON: {"schema": PROBLEM}}
    return {status: {"description": DESCRIPTIONS[status], "content": content} for status in statuses}


PROBLEM_503 = problems(503)


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Without `$defs`: a reference to them would point into the whole document from here."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    return dict(resolve(schema))


def _never_null(field: dict[str, Any]) -> dict[str, Any]:
    """A form has no null: what is not given is left out."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key != "anyOf" and (key, value) != ("default", None)}
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def job_body(task: Task) -> dict[str, Any]:
    """The request body of a task's POST, in both content types."""
    schema = _inlined(REQUESTS[task].model_json_schema())
    given = [field for field in FILES if field in schema["properties"]]
    for field in given:
        note = schema["properties"][field].get("description")
        schema["properties"][field] = {"type": "string", "contentEncoding": "base64", "description": note}
    files = {field: {"type": "string", "format": "binary"} for field in given}
    form = {**schema, "properties": {name: _never_null(field) for name, field in schema["properties"].items()} | files}
    content = {
        "application/json": {"schema": schema, "example": EXAMPLES[task]},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}
