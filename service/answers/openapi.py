"""What FastAPI cannot derive from the routes: two content types on one route, headers, the type of an error."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from pydantic.json_schema import models_json_schema

from ldm_core.params import Task
from service.errors import PROBLEM_JSON
from service.intake.schemas import IMAGE_FIELDS, JobRequest
from service.intake.tasks import REQUESTS
from service.problems import Problem

REF = "#/components/schemas/{model}"
DESCRIPTIONS = {
    400: "The body cannot be parsed",
    401: "No API key, or an unknown one",
    403: "The API key may not do this, or a signature is wrong or has expired",
    404: "No such job: unknown, or expired",
    406: "Accept takes nothing that this could be answered with",
    408: "The body was not complete in time",
    409: "The job is not finished",
    410: "The images of the job that this request made before are no longer stored",
    413: "The body is too large",
    415: "Neither JSON nor multipart/form-data, or with a Content-Encoding",
    422: "A field is at fault; `errors` names each one and its limit",
    429: "The queue is full, or the API key is over a limit of its own; see Retry-After",
    503: "The queue cannot be reached or no worker is there; see Retry-After",
    504: "The job's time was up",
}
BINARY = {"type": "string", "format": "binary"}
IMAGE_CONTENT: dict[str, Any] = {
    kind: {"schema": {**BINARY, "contentMediaType": kind}} for kind in ("image/png", "image/jpeg", "image/webp")
}
TEXT, INTEGER = {"type": "string"}, {"type": "integer"}
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Request-ID": ("The request's id in all logs: the one sent, if it is sane", TEXT),
    "Location": ("The job's path", TEXT),
    "Preference-Applied": ("`wait=N`, where the answer waited", TEXT),
    "Idempotent-Replay": ("`true`: this is the job that the same request made before", {"const": "true", **TEXT}),
    "X-Job-ID": ("The job, where the answer is its first image", TEXT),
    "X-Seed": ("The seed of that image", INTEGER),
    "X-Job-Warning": ("One of the job's `warnings`, as `code: detail`; there may be several", TEXT),
    "Link": ("The job's other images, where the answer is its first one", TEXT),
    "RateLimit-Limit": ("Jobs that the API key may send in a window, where it has such a limit", INTEGER),
    "RateLimit-Remaining": ("Jobs that it may send at once now", INTEGER),
    "RateLimit-Reset": ("Seconds until it may send as many as its limit again", INTEGER),
    "ETag": ("The image's SHA-256, in quotes", TEXT),
    "Cache-Control": ("How long it may be kept", TEXT),
    "Retry-After": ("Seconds after which to try again", INTEGER),
    "WWW-Authenticate": ("`Bearer`: send an API key", TEXT),
    "Accept": ("The content types that are taken", TEXT),
    "Accept-Encoding": ("`identity`: a body is taken only without a Content-Encoding", TEXT),
}
WEBHOOKS: dict[str, Any] = {
    "job": {
        "post": {
            "summary": "What a job's `webhook` is told when it ends",
            "description": "Signed as Standard Webhooks has it. Sent again, with the same id, until 2xx or 410.",
            "operationId": "job_ended",
            "parameters": [
                {"name": name, "in": "header", "required": True, "schema": TEXT}
                for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": {
                "type": "object", "required": ["type", "timestamp", "data"],
                "properties": {
                    "type": {"type": "string", "enum": ["job.succeeded", "job.failed", "job.cancelled"]},
                    "timestamp": {"type": "string", "format": "date-time", "description": "when it ended"},
                    "data": {"$ref": REF.format(model="Job")},
                },
            }}}},
            "responses": {"2XX": {"description": "It is taken"}, "410": {"description": "Nothing more is wanted"}},
        }
    }
}  # fmt: skip
RATE = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
MADE = ("Location", "Preference-Applied", "Idempotent-Replay", "Link", *RATE)  # on what answers a POST
ERROR_HEADERS: dict[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",), 415: ("Accept", "Accept-Encoding"), 429: ("Retry-After", *RATE), 503: ("Retry-After",),
}  # fmt: skip


def with_headers(*names: str) -> dict[str, Any]:
    """The `headers` of a response, beside X-Request-ID, which every response has."""
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these errors."""
    return {
        status: {
            "description": DESCRIPTIONS[status], "model": Problem, **with_headers(*ERROR_HEADERS.get(status, ())),
        }
        for status in statuses
    }  # fmt: skip


def completed(document: dict[str, Any], others: Collection[type[JobRequest]] = ()) -> dict[str, Any]:
    """FastAPI's document with the request bodies, the headers and the content type of errors.

    `others`: requests beside those of the tasks, each of one content type, which its name tells.
    """
    for methods in document["paths"].values():
        for route in methods.values():
            _complete_responses(route["responses"])
    schemas = document["components"]["schemas"] | _request_schemas(others)
    unused = {"HTTPValidationError", "ValidationError"}
    document["components"]["schemas"] = {name: schemas[name] for name in sorted(schemas.keys() - unused)}
    document["components"]["headers"] = {
        name: {"description": description, "schema": schema} for name, (description, schema) in HEADERS.items()
    }
    document["webhooks"] = WEBHOOKS
    return document


def _complete_responses(responses: dict[str, Any]) -> None:
    if responses.get("422", {}).get("description") == "Validation Error":  # FastAPI's own, for any route with a path
        del responses["422"]
    for status, response in responses.items():
        response.setdefault("headers", {}).update(with_headers("X-Request-ID")["headers"])
        if int(status) >= 400:
            (content,) = response["content"].values()
            response["content"] = {PROBLEM_JSON: content}


def job_body(task: Task) -> dict[str, Any]:
    """The request body of a task's POST, in both content types."""
    json_name, form_name = (REF.format(model=name) for name in _names(task))
    content = {
        "application/json": {"schema": {"$ref": json_name}, "example": REQUESTS[task].example},
        "multipart/form-data": {"schema": {"$ref": form_name}},
    }
    return {"requestBody": {"required": True, "content": content}}


def body_of(request: type[JobRequest]) -> dict[str, Any]:
    """The request body of a POST that takes one content type: a form where the class is named so, else JSON."""
    kind = "multipart/form-data" if request.__name__.endswith("Form") else "application/json"
    schema = {"$ref": REF.format(model=request.__name__)}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _names(task: Task) -> tuple[str, str]:
    name = REQUESTS[task].__name__
    return name, name.replace("Request", "Form")


def _request_schemas(others: Collection[type[JobRequest]]) -> dict[str, Any]:
    """Every request of a task as JSON and as a form, and the other ones."""
    models = (*REQUESTS.values(), *others)
    _, made = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    schemas: dict[str, Any] = made["$defs"]
    forms = {form: _form(schemas[name], form) for name, form in map(_names, REQUESTS)}
    alone = [name for name in (other.__name__ for other in others) if name.endswith("Form")]
    return schemas | forms | {name: _form(schemas[name], name) for name in alone}


def _form(request: dict[str, Any], title: str) -> dict[str, Any]:
    """The same request as a form: images are files, and what is not given is left out or empty, for it has no null."""
    properties = {name: _never_null(field) for name, field in copy.deepcopy(request["properties"]).items()}
    for name in request.get("required", ()):
        if properties[name]["type"] == "string":
            properties[name]["minLength"] = 1
    for name in properties.keys() & IMAGE_FIELDS:
        kind = {"type": "array", "minItems": 1, "items": BINARY} if name == "neighbors" else BINARY
        properties[name] = {**kind, "description": properties[name].get("description", "")}
    return {**request, "title": title, "properties": properties}


def _never_null(field: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key != "anyOf"}
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
