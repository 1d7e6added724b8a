"""Idempotency-Key: one job, however often its request is sent."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess

KEY = {"Idempotency-Key": "order-1"}
BODY = {"prompt": "x"}


async def test_the_same_request_gives_the_same_job(http: httpx.AsyncClient, announced: None, redis: Redis) -> None:
    first = await http.post("/v1/txt2img", json=BODY, headers=KEY)
    again = await http.post("/v1/txt2img", json=BODY, headers=KEY)
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["request"]["seed"] == again.json()["request"]["seed"]  # which is random
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert redis.zcard("ldm:open") == 1
    text = (await http.get("/metrics")).text
    assert 'ldm_jobs_submitted_total{key="",model="toy",task="txt2img"} 1.0' in text


@pytest.mark.parametrize("other", [{"prompt": "y"}, {"prompt": "x", "seed": 1}, {"prompt": "x", "n": 1}])
async def test_another_request_under_the_same_key_is_refused(
    http: httpx.AsyncClient, announced: None, redis: Redis, other: dict[str, Any]
) -> None:
    await http.post("/v1/txt2img", json=BODY, headers=KEY)
    assert "Idempotency-Key" in assert_problem(await http.post("/v1/txt2img", json=other, headers=KEY), 422)["detail"]
    assert redis.zcard("ldm:open") == 1
    text = (await http.get("/metrics")).text
    assert 'ldm_jobs_refused_total{key="",reason="idempotency"} 1.0' in text


async def test_a_finished_job_is_answered_whole_and_as_its_picture(
    http: httpx.AsyncClient, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker()
    first = await http.post("/v1/txt2img", json=BODY, headers={**KEY, "Prefer": "wait=30"})
    assert first.json()["status"] == "succeeded"
    worker.kill()
    again = await http.post("/v1/txt2img", json=BODY, headers=KEY)
    assert again.status_code == 200
    assert again.json() == first.json()
    picture = await http.post("/v1/txt2img", json=BODY, headers={**KEY, "Accept": "image/png"})
    assert picture.status_code == 200
    assert picture.content.startswith(b"x:")
    assert again.headers["idempotent-replay"] == picture.headers["idempotent-replay"] == "true"


async def test_a_replay_waits_like_the_first(
    http: httpx.AsyncClient, announced: None, start_worker: Callable[..., WorkerProcess]
) -> None:
    first = await http.post("/v1/txt2img", json=BODY, headers=KEY)
    start_worker()
    again = await http.post("/v1/txt2img", json=BODY, headers={**KEY, "Prefer": "wait=30"})
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["status"] == "succeeded"


async def test_a_replay_needs_no_room_and_no_worker(
    gateway: Gateway, announced: None, redis: Redis, encoded: Callable[..., bytes]
) -> None:
    http = await gateway(queue_limit=1)
    body = {"image": base64.b64encode(encoded()).decode(), "model": "toy"}
    first = await http.post("/v1/superres", json=body, headers=KEY)
    assert_problem(await http.post("/v1/superres", json=body), 429)
    redis.delete("ldm:worker:nobody")
    again = await http.post("/v1/superres", json=body, headers=KEY)
    assert again.json()["id"] == first.json()["id"]


async def test_pictures_gone_by_now_are_said_to_be_gone(
    http: httpx.AsyncClient, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker()
    first = await http.post("/v1/txt2img", json=BODY, headers={**KEY, "Prefer": "wait=30"})
    await http.delete(first.headers["location"])
    again = await http.post("/v1/txt2img", json=BODY, headers={**KEY, "Accept": "image/png"})
    assert "no longer" in assert_problem(again, 410)["detail"]


async def test_pictures_are_part_of_the_request_however_they_are_sent(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes]
) -> None:
    picture = encoded()
    inline = base64.b64encode(picture).decode()
    url = f"data:image/png;base64,{inline}"
    sent = [await http.post("/v1/superres", json={"image": image, "seed": 3}, headers=KEY) for image in (inline, url)]
    sent.append(await http.post("/v1/superres", data={"seed": "3"}, files={"image": picture}, headers=KEY))
    assert len({answer.json()["id"] for answer in sent}) == 1
    other = base64.b64encode(encoded(color=(1, 2, 3))).decode()
    assert_problem(await http.post("/v1/superres", json={"image": other, "seed": 3}, headers=KEY), 422)


async def test_many_at_once_make_one_job(gateway: Gateway, announced: None, redis: Redis) -> None:
    gateways = [await gateway() for _ in range(2)]
    sends = [http.post("/v1/txt2img", json=BODY, headers=KEY) for http in gateways for _ in range(10)]
    answers = await asyncio.gather(*sends)
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert redis.zcard("ldm:open") == 1


async def test_callers_do_not_share_idempotency_keys(gateway: Gateway, announced: None) -> None:
    http = await gateway(api_keys=SecretStr("a:ldm_a-0123456789abc,b:ldm_b-0123456789abc"))
    callers = [{"Authorization": f"Bearer ldm_{name}-0123456789abc"} for name in "ab"]
    first, second = [await http.post("/v1/txt2img", json=BODY, headers={**KEY, **caller}) for caller in callers]
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "é".encode()])
async def test_a_key_of_another_form_is_refused(http: httpx.AsyncClient, announced: None, key: str | bytes) -> None:
    answer = await http.post("/v1/txt2img", json=BODY, headers=[(b"idempotency-key", key)])  # type: ignore[list-item]
    assert "255" in assert_problem(answer, 400)["detail"]
