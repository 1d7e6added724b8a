"""The HTTP contract, against a real Redis and a worker process whose engine follows a script."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.service.conftest import CARD
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess
from worker.store.keys import Key

Start = Callable[..., WorkerProcess]


async def test_a_job_from_post_to_picture(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    made = await http.post("/v1/txt2img", json={"prompt": "x", "seed": 5, "n": 2, "metadata": {"k": "v"}})
    assert made.status_code == 202
    job = made.json()
    assert made.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["task"] == "txt2img"
    assert job["request"]["seed"] == 5
    assert job["request"]["steps"] == 4
    assert job["request"]["metadata"] == {"k": "v"}
    done = await http.post("/v1/txt2img", json={"prompt": "y"}, headers={"Prefer": "respond-async, wait=30"})
    assert done.status_code == 200
    assert done.json()["status"] == "succeeded"
    assert done.json()["progress"] == 1.0
    job = (await http.get(made.headers["location"])).json()
    assert [image["seed"] for image in job["images"]] == [5, 6]
    picture = await http.get(job["images"][1]["url"])
    assert picture.content == b"x:5"
    assert picture.headers["etag"] == f'"{job["images"][1]["sha256"]}"'
    kept = re.fullmatch(r"private, max-age=(\d+), immutable", picture.headers["cache-control"])
    assert kept and 3500 < int(kept[1]) <= 3600
    again = await http.get(job["images"][1]["url"], headers={"If-None-Match": picture.headers["etag"]})
    assert again.status_code == 304
    assert_problem(await http.get(f"/v1/jobs/{job['id']}/images/2"), 404)


async def test_a_model_counts_from_the_moment_a_worker_serves_it(http: httpx.AsyncClient, redis: Redis) -> None:
    toy, plain = json.loads(CARD)
    assert_problem(await http.post("/v1/txt2img", json={"prompt": "x"}), 503)
    redis.sadd(Key.WORKERS, "first", "second")
    redis.set(Key.CARDS.of("first"), json.dumps([toy]))
    assert (await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202
    assert_problem(await http.post("/v1/txt2img", json={"prompt": "", "model": "plain"}), 422)
    redis.set(Key.CARDS.of("second"), json.dumps([plain]))
    assert (await http.post("/v1/txt2img", json={"prompt": "", "model": "plain"})).status_code == 202


async def test_a_model_that_nobody_serves_any_more_is_soon_refused(
    http: httpx.AsyncClient, redis: Redis, announced: None
) -> None:
    assert (await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202
    redis.delete(Key.CARDS.of("nobody"))
    async with asyncio.timeout(10):
        while (answer := await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202:
            await asyncio.sleep(0.05)
    assert_problem(answer, 503)


async def test_accept_image_answers_with_the_bytes(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    answer = await http.post("/v1/txt2img", json={"prompt": "x", "seed": 9}, headers={"Accept": "image/png"})
    assert answer.status_code == 200
    assert answer.content == b"x:9"
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "9"
    assert (await http.get(f"/v1/jobs/{answer.headers['x-job-id']}")).json()["status"] == "succeeded"


async def test_accept_image_answers_a_failure_with_its_problem(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    answer = await http.post("/v1/txt2img", json={"prompt": "break"}, headers={"Accept": "image/png"})
    assert_problem(answer, 500)


async def test_what_is_not_done_in_time_is_202(http: httpx.AsyncClient, announced: None) -> None:
    headers = {"Accept": "image/png", "Prefer": "wait=0"}
    answer = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    assert answer.json()["queue_position"] == 1
    problem = assert_problem(await http.get(f"{answer.headers['location']}/images/0"), 409)
    assert "queued" in problem["detail"]


async def test_delete_cancels_an_open_job_and_empties_a_finished_one(
    http: httpx.AsyncClient, announced: None, start_worker: Start
) -> None:
    queued = (await http.post("/v1/txt2img", json={"prompt": "x"})).headers["location"]
    cancelled = await http.delete(queued)
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    start_worker()
    finished = await http.post("/v1/txt2img", json={"prompt": "x", "model": "toy"}, headers={"Prefer": "wait=30"})
    url = finished.json()["urls"]["self"]
    assert (await http.delete(url)).status_code == 204
    assert (await http.get(url)).json()["images"] == []
    assert_problem(await http.get(f"{url}/images/0"), 404)
    assert_problem(await http.delete("/v1/jobs/unknown"), 404)


async def test_multipart_says_the_same_as_json(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes]
) -> None:
    picture, mask = encoded(), encoded("L", color=255)
    fields = {"prompt": "x", "seed": 3, "eta": 0.5, "model": "toy", "metadata": {"a": "b"}}
    form = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in fields.items()}
    files = {"image": ("photo.png", picture, "image/png"), "mask": ("mask.png", mask, "image/png")}
    inline = {
        "image": base64.b64encode(picture).decode(),
        "mask": "data:image/png;base64," + base64.b64encode(mask).decode(),
    }
    first = await http.post("/v1/inpaint", data=form, files=files)
    second = await http.post("/v1/inpaint", json={**fields, **inline})
    assert first.status_code == second.status_code == 202, first.text + second.text
    assert first.json()["request"] == second.json()["request"]


async def test_a_queue_that_is_full_says_when_to_come_back(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes]
) -> None:
    for _ in range(100):
        assert (await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202
    answer = await http.post("/v1/txt2img", json={"prompt": "x"})
    assert "100" in assert_problem(answer, 429)["detail"]
    assert int(answer.headers["retry-after"]) > 0
    image = base64.b64encode(encoded()).decode()
    assert_problem(await http.post("/v1/superres", json={"image": image}), 429)


async def test_models_are_those_of_live_workers(http: httpx.AsyncClient, announced: None) -> None:
    answer = (await http.get("/v1/models")).json()
    assert answer["object"] == "list"
    plain, toy = answer["data"]
    assert (plain["id"], toy["id"]) == ("plain", "toy")
    assert toy["object"] == "model"
    assert toy["workers"] == 1
    assert {"created", "owned_by", "tasks", "native_size", "scale", "samplers", "text", "loaded"} <= set(toy)


@pytest.mark.parametrize(
    ("asked", "sampler"),
    [({}, "euler"), ({"sampler": None}, "euler"), ({"sampler": "plms"}, "plms"), ({"eta": 0.5}, "ddim")],
)
async def test_the_sampler_is_the_models_own_where_a_request_names_none(
    http: httpx.AsyncClient, announced: None, redis: Redis, asked: dict[str, Any], sampler: str
) -> None:
    """Only DDIM has an η, so that a request for one needs no sampler."""
    card = {**json.loads(CARD)[0], "default_sampler": "euler"}
    redis.set(Key.CARDS.of("nobody"), json.dumps([card]))
    (model,) = (await http.get("/v1/models")).json()["data"]
    assert model["default_sampler"] == "euler"
    job = (await http.post("/v1/txt2img", json={"prompt": "x", **asked})).json()
    assert job["request"]["sampler"] == sampler


async def test_health_and_readiness(http: httpx.AsyncClient, redis_url: str) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert "worker" in assert_problem(await http.get("/readyz"), 503)["detail"]
    assert_problem(await http.post("/v1/txt2img", json={"prompt": "x"}), 503)


async def test_readiness_with_a_worker(http: httpx.AsyncClient, announced: None) -> None:
    assert (await http.get("/readyz")).json() == {"status": "ready", "models": ["plain", "toy"]}


async def test_request_ids_are_kept_when_sane_and_made_otherwise(http: httpx.AsyncClient) -> None:
    kept = await http.get("/healthz", headers={"X-Request-ID": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    for bad in ("x" * 200, "with space", ""):
        made = await http.get("/v1/nowhere", headers={"X-Request-ID": bad})
        assert assert_problem(made, 404)["request_id"] != bad
    assert_problem(await http.put("/v1/txt2img"), 405)


async def test_metrics_count_requests_by_route_and_jobs(http: httpx.AsyncClient, announced: None) -> None:
    made = await http.post("/v1/txt2img", json={"prompt": "x"})
    await http.get(made.headers["location"])
    text = (await http.get("/metrics")).text
    assert 'ldm_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in text
    assert 'ldm_jobs_submitted_total{key="",model="toy",task="txt2img"} 1.0' in text
    assert 'ldm_queue_depth{model="toy",priority="normal"} 1.0' in text


async def test_openapi_promises_no_errors_but_problems(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for route in methods.values():
            for status, answer in route["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)
    events = document["paths"]["/v1/jobs/{job_id}/events"]["get"]
    assert list(events["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "Last-Event-ID" in [parameter["name"] for parameter in events["parameters"]]


async def test_openapi_names_both_content_types_and_every_error(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    for task in ("txt2img", "inpaint", "superres"):
        post = paths[f"/v1/{task}"]["post"]
        assert set(post["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
        assert {"400", "413", "415", "422", "429", "503"} <= set(post["responses"])
        assert "application/problem+json" in post["responses"]["422"]["content"]
        assert post["requestBody"]["content"]["application/json"]["example"]
    assert (await http.get("/docs")).status_code == 200


async def test_an_unexpected_error_shows_nothing_of_ours(
    http: httpx.AsyncClient, announced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr("service.intake.submission.GenerationParams", broken)
    answer = await http.post("/v1/txt2img", json={"prompt": "x"})
    assert_problem(answer, 500)
    assert "secret" not in answer.text
