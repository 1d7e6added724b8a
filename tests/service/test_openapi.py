"""The OpenAPI document as generators of clients read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import httpx
import pytest

from ldm_core.card import ModelCard
from ldm_core.params import GenerationParams, Task
from service.answers import answers
from service.answers.answers import JobParameters, Model
from service.http import cors
from service.intake.tasks import REQUESTS
from tests.worker.processes import WorkerProcess

Start = Callable[..., WorkerProcess]
TASKS = get_args(Task)


@pytest.fixture
async def document(http: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await http.get("/openapi.json")).json())


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {route["operationId"]: route for methods in document["paths"].values() for route in methods.values()}


async def test_operations_have_the_names_that_a_person_would_choose(document: dict[str, Any]) -> None:
    assert set(operations(document)) == {
        *(f"create_{task}" for task in TASKS), "list_jobs", "get_job", "cancel_job", "get_image", "stream_events",
        "list_models", "get_health", "get_readiness", "get_metrics", "create_image_generations", "create_image_edits",
        "create_image_variations",
    }  # fmt: skip


async def test_every_shape_has_a_name_and_stands_there_once(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    named = {request.__name__ for request in REQUESTS.values()}
    named |= {name.replace("Request", "Form") for name in named}
    named |= {"Job", "JobList", "JobImage", "JobUrls", "JobWarning", "JobError", "JobParameters", "Problem"}
    named |= {"Model", "ModelList", "Task", "JobStatus", "Priority", "ImageFormat", "Sampler", "Metadata"}
    assert named <= set(schemas)
    assert '"properties"' not in json.dumps(document["paths"])
    assert schemas["Job"]["properties"]["images"]["items"] == {"$ref": "#/components/schemas/JobImage"}
    assert schemas["Txt2ImgRequest"]["required"] == ["prompt"]
    assert not [name for name, field in schemas["Txt2ImgRequest"]["properties"].items() if "default" in field]


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [
                *([node["$ref"]] if "$ref" in node else []),
                *(r for value in node.values() for r in references(value)),
            ]
        return [r for item in node for r in references(item)] if isinstance(node, list) else []

    found = references(document)
    assert len(found) > 100
    for reference in found:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


async def test_images_are_binary_and_headers_are_described(document: dict[str, Any]) -> None:
    known = operations(document)
    for content in (known["get_image"], known["create_txt2img"]):
        for kind in ("image/png", "image/jpeg", "image/webp"):
            schema = content["responses"]["200"]["content"][kind]["schema"]
            assert schema == {"type": "string", "format": "binary", "contentMediaType": kind}
    assert next(iter(known["create_txt2img"]["responses"]["200"]["content"])) == "application/json"
    form = document["components"]["schemas"]["InpaintForm"]["properties"]
    assert form["image"]["format"] == form["mask"]["format"] == "binary"
    prompts = [
        document["components"]["schemas"][f"Txt2Img{way}"]["properties"]["prompt"] for way in ("Request", "Form")
    ]
    assert [prompt.get("minLength") for prompt in prompts] == [None, 1]
    assert {"Location", "X-Job-ID", "X-Seed", "Idempotent-Replay"} <= set(
        known["create_txt2img"]["responses"]["200"]["headers"]
    )
    assert "Location" in known["create_txt2img"]["responses"]["202"]["headers"]
    assert {"Retry-After", "RateLimit-Remaining"} <= set(known["create_txt2img"]["responses"]["429"]["headers"])
    assert "Retry-After" in known["list_models"]["responses"]["503"]["headers"]
    assert "ETag" in known["get_image"]["responses"]["200"]["headers"]
    for route in known.values():
        assert all("X-Request-ID" in answer["headers"] for answer in route["responses"].values())


async def test_every_header_that_a_page_may_read_is_described(document: dict[str, Any]) -> None:
    assert set(cors.READ) - {"Content-Disposition"} <= set(document["components"]["headers"])


def test_answers_describe_every_field_that_there_is() -> None:
    assert {field.name for field in fields(ModelCard)} - {"noise_level", "tile"} <= set(Model.model_fields)
    assert {field.name for field in fields(GenerationParams)} - {"task"} <= set(JobParameters.model_fields)


async def test_jobs_and_models_are_as_described(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    done = (await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=30"})).json()
    failed = (await http.post("/v1/txt2img", json={"prompt": "break"}, headers={"Prefer": "wait=30"})).json()
    for job in (done, failed):
        assert set(job) == set(answers.Job.model_fields)
        read = answers.Job.model_validate_json(json.dumps(job))
        assert not read.request.model_extra
        assert read.model_dump(mode="json", exclude_unset=True) == job
    assert failed["error"]["status"] == 500 and "strength" not in done["request"]
    for model in (await http.get("/v1/models")).json()["data"]:
        assert not Model.model_validate_json(json.dumps(model)).model_extra
