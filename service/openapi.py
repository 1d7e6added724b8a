"""What OpenAPI cannot see for itself: two content types on one route, examples, and the errors as problems."""

from __future__ import annotations

from typing import Any, get_args

from ldm_core.params import TASKS, Task
from service.errors import PROBLEM_JSON
from service.schemas import REQUESTS
from worker.jobs import Status

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
TEXT, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}


def _always(**properties: Any) -> dict[str, Any]:
    """An object that has all of these, and perhaps more one day."""
    return {"type": "object", "required": [*properties], "properties": properties}


STORED_IMAGE = _always(
    url=TEXT, seed=INTEGER, width=INTEGER, height=INTEGER, content_type=TEXT, bytes=INTEGER, sha256=TEXT
)
JOB = _always(
    id=TEXT,
    task={"enum": [*TASKS]},
    model=TEXT,
    status={"enum": [*get_args(Status)]},
    progress={"type": "number", "minimum": 0, "maximum": 1},
    step=INTEGER,
    steps=INTEGER,
    queue_position={"type": ["integer", "null"], "description": "1: the next one; null once it runs"},
    created_at={"type": "string", "format": "date-time"},
    started_at=TIME_OR_NULL,
    finished_at=TIME_OR_NULL,
    expires_at=TIME_OR_NULL,
    request={"type": "object", "description": "every parameter, with defaults resolved, but the pictures"},
    images={"type": "array", "items": STORED_IMAGE},
    error={"type": ["object", "null"], "description": "why it failed, as a problem"},
    warnings={
        "type": "array",
        "items": _always(code=TEXT, detail=TEXT, pointer=TEXT),
        "description": "what was asked for and not honoured; empty when all was",
    },
    urls={"type": "object", "additionalProperties": TEXT},
)
MODEL = _always(
    id=TEXT, object={"const": "model"}, created=INTEGER, owned_by=TEXT, tasks={"type": "array", "items": TEXT},
    native_size={"type": "array", "items": INTEGER}, size_multiple=INTEGER, max_pixels=INTEGER, scale=INTEGER,
    samplers={"type": "array", "items": TEXT}, default_steps=INTEGER, default_guidance_scale=NUMBER,
    text={"type": "boolean"}, loaded={"type": "boolean"}, workers=INTEGER,
)  # fmt: skip
JOB_CONTENT: dict[str, Any] = {"application/json": {"schema": JOB}}
MODELS_CONTENT: dict[str, Any] = {
    "application/json": {"schema": _always(object={"const": "list"}, data={"type": "array", "items": MODEL})}
}
DESCRIPTIONS = {
    400: "The body cannot be parsed",
    401: "No API key, or an unknown one",
    403: "The API key may not do this",
    404: "No such job: unknown, or expired",
    408: "The body was not complete in time",
    409: "The job is not finished",
    410: "The pictures of the job that this request made before are no longer stored",
    413: "The body is too large",
    415: "Neither JSON nor multipart/form-data",
    422: "A field is at fault; `errors` names each one and its limit",
    429: "The queue is full, or the API key is over a limit of its own; see Retry-After",
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


def without_validation_errors(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI promises an error of its own for every route with a parameter; none of ours ever answers so."""
    for methods in document["paths"].values():
        for route in methods.values():
            if "application/json" in route["responses"].get("422", {}).get("content", {}):
                del route["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


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
    files: dict[str, Any] = {field: {"type": "string", "format": "binary"} for field in given}
    if "neighbors" in schema["properties"]:
        files["neighbors"] = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    form = {**schema, "properties": {name: _never_null(field) for name, field in schema["properties"].items()} | files}
    content = {
        "application/json": {"schema": schema, "example": EXAMPLES[task]},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}
