"""A model whose workers are gone: away for a while, not unknown."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import httpx
import pytest
from redis import Redis

from tests.service.conftest import CARD
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess, eventually
from worker.store.keys import Key

Start = Callable[..., WorkerProcess]
PLAIN = [card for card in json.loads(CARD) if card["id"] == "plain"]


def another_lives(redis: Redis) -> None:
    redis.sadd(Key.WORKERS, "other")
    redis.set(Key.CARDS.of("other"), json.dumps(PLAIN))


async def test_a_model_that_was_served_is_away_until_a_worker_is_back(
    http: httpx.AsyncClient, redis: Redis, start_worker: Start
) -> None:
    another_lives(redis)
    unknown = {"prompt": "x", "model": "toy"}
    assert_problem(await http.post("/v1/txt2img", json=unknown), 422)
    start_worker(lease_s=2, beat_s=0.5).kill()
    eventually(lambda: len(list(redis.scan_iter("ldm:worker:*"))) == 1)
    away = await http.post("/v1/txt2img", json=unknown)
    assert "'toy'" in assert_problem(away, 503)["detail"]
    assert int(away.headers["retry-after"]) > 0
    assert "plain" in assert_problem(await http.post("/v1/txt2img", json={**unknown, "model": "never"}), 422)["detail"]
    assert [model["id"] for model in (await http.get("/v1/models")).json()["data"]] == ["plain"]
    start_worker()
    assert (await http.post("/v1/txt2img", json=unknown)).status_code == 202


async def test_a_task_that_only_an_absent_model_does_is_away_too(
    http: httpx.AsyncClient, redis: Redis, encoded: Callable[..., bytes]
) -> None:
    another_lives(redis)
    body = {"image": base64.b64encode(encoded()).decode()}
    assert_problem(await http.post("/v1/superres", json=body), 422)
    redis.zadd(Key.KNOWN_MODELS, {json.dumps({"id": "large", "tasks": ["superres"]}): 1})
    answer = await http.post("/v1/superres", json=body)
    assert "'large'" in assert_problem(answer, 503)["detail"]
    assert answer.headers["retry-after"]
    assert_problem(await http.post("/v1/superres", json={**body, "model": "plain"}), 422)
    assert_problem(await http.post("/v1/txt2img", json={"prompt": "x", "model": "large"}), 422)


def test_a_worker_forgets_what_was_not_served_for_long(redis: Redis, start_worker: Start) -> None:
    redis.zadd(Key.KNOWN_MODELS, {json.dumps({"id": "old", "tasks": []}): 1})
    start_worker()
    known = [json.loads(entry) for entry in redis.zrange(Key.KNOWN_MODELS, 0, -1)]
    assert [model["id"] for model in known] == ["toy"]
    assert known[0]["tasks"]


@pytest.mark.parametrize("published", [b"{", b"null", b"\xff", b"[null, 1]", b'[{"id": 1}]', b"{}"])
async def test_what_cannot_be_read_of_one_worker_hides_no_other(
    http: httpx.AsyncClient, redis: Redis, published: bytes
) -> None:
    another_lives(redis)
    redis.sadd(Key.WORKERS, "strange")
    redis.set(Key.CARDS.of("strange"), published)
    assert [model["id"] for model in (await http.get("/v1/models")).raise_for_status().json()["data"]] == ["plain"]
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.post("/v1/txt2img", json={"prompt": "", "model": "plain"})).status_code == 202
