"""What a key may send at once and in a while, how long a job may take, and what answers say of it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.service.conftest import Gateway
from tests.service.problems import assert_problem

SECRET = "ldm_alice-0123456789"
CALLER = {"Authorization": f"Bearer {SECRET}"}
BODY = {"prompt": "x"}


def keys_with(tmp_path: Path, **limits: float) -> Path:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    lines = [f'[alice]\nsha256 = "{digest}"', *(f"{name} = {value}" for name, value in limits.items())]
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("rate", [3, 11])
async def test_a_rate_is_told_with_every_job_and_held(
    gateway: Gateway, announced: None, tmp_path: Path, rate: int
) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path, rate=rate, window_s=60))
    answers = [await http.post("/v1/txt2img", json=BODY, headers=CALLER) for _ in range(rate + 1)]
    *taken, refused = answers
    assert [answer.status_code for answer in taken] == [202] * rate
    assert [int(answer.headers["ratelimit-remaining"]) for answer in answers] == [*reversed(range(rate)), 0]
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {str(rate)}
    assert 0 < int(taken[0].headers["ratelimit-reset"]) <= 60 / rate + 1
    assert f"{rate} jobs in 60 seconds" in assert_problem(refused, 429)["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60 / rate + 1
    assert int(refused.headers["ratelimit-reset"]) >= int(refused.headers["retry-after"])
    text = (await http.get("/metrics")).text
    assert 'ldm_jobs_refused_total{key="alice",reason="rate"} 1.0' in text


async def test_after_retry_after_a_job_is_taken_again(gateway: Gateway, announced: None, tmp_path: Path) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path, rate=2, window_s=2))
    for _ in range(2):
        assert (await http.post("/v1/txt2img", json=BODY, headers=CALLER)).status_code == 202
    refused = await http.post("/v1/txt2img", json=BODY, headers=CALLER)
    assert refused.status_code == 429
    await asyncio.sleep(int(refused.headers["retry-after"]))
    assert (await http.post("/v1/txt2img", json=BODY, headers=CALLER)).status_code == 202


async def test_a_key_has_only_so_many_jobs_open(gateway: Gateway, announced: None, tmp_path: Path) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path, open_jobs=2))
    made = [await http.post("/v1/txt2img", json=BODY, headers=CALLER) for _ in range(3)]
    assert [answer.status_code for answer in made] == [202, 202, 429]
    assert "2 jobs" in assert_problem(made[2], 429)["detail"]
    assert int(made[2].headers["retry-after"]) > 0
    assert "ratelimit-limit" not in made[0].headers
    await http.delete(made[0].headers["location"], headers=CALLER)
    assert (await http.post("/v1/txt2img", json=BODY, headers=CALLER)).status_code == 202


@pytest.mark.parametrize(("sent", "kept"), [({}, 600), ({"timeout": 30}, 30), ({"timeout": 1.5}, 2)])
async def test_a_job_has_its_own_timeout(
    http: httpx.AsyncClient, announced: None, redis: Redis, sent: dict[str, float], kept: int
) -> None:
    job = (await http.post("/v1/txt2img", json={**BODY, **sent})).json()
    assert job["request"]["timeout"] == kept
    assert redis.hget(f"rq:job:{job['id']}", "timeout") == str(kept).encode()


@pytest.mark.parametrize(
    ("timeout", "says"), [(601, "600"), (0.5, "1"), (0, "1"), (-1, "1"), ("30", "number"), (True, "number")]
)
async def test_a_timeout_out_of_bounds_is_refused_with_the_bound(
    http: httpx.AsyncClient, announced: None, timeout: object, says: str
) -> None:
    problem = assert_problem(await http.post("/v1/txt2img", json={**BODY, "timeout": timeout}), 422)
    (error,) = problem["errors"]
    assert error["pointer"] == "/timeout"
    assert says in error["detail"]


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "an image that is none": ({"json": {"prompt": "x", "image": "AAAA"}}, 422),
    "an unknown field": ({"json": {"prompt": "x", "no": 1}}, 422),
    "an unknown model": ({"json": {"prompt": "x", "model": "no"}}, 422),
    "no JSON": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    "too large": ({"content": b" " * (2**20 + 1), "headers": {"Content-Type": "application/json"}}, 413),
    "another type": ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_request_costs_as_much_as_a_job(
    gateway: Gateway, announced: None, tmp_path: Path, name: str
) -> None:
    request, status = REFUSED[name]
    http = await gateway(api_keys_file=keys_with(tmp_path, rate=3, window_s=60))
    sent = {**request, "headers": request.get("headers", {}) | CALLER}
    answers = [await http.post("/v1/txt2img", **sent) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [status] * 3 + [429]
    assert "3 jobs in 60 seconds" in assert_problem(answers[3], 429)["detail"]
    assert answers[3].headers["ratelimit-remaining"] == "0"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 21
    assert (await http.post("/v1/txt2img", json=BODY, headers=CALLER)).status_code == 429


async def test_a_replay_costs_as_much_as_a_job(gateway: Gateway, announced: None, tmp_path: Path) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path, rate=3, window_s=60))
    headers = {**CALLER, "Idempotency-Key": "a"}
    made, *again = [await http.post("/v1/txt2img", json=BODY, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in (made, *again)] == [202, 202, 202, 429]
    assert [answer.headers.get("idempotent-replay") for answer in again] == ["true", "true", None]
    assert [answer.headers["ratelimit-remaining"] for answer in (made, *again)] == ["2", "1", "0", "0"]


async def test_what_the_server_refuses_for_its_own_sake_costs_nothing(
    gateway: Gateway, redis: Redis, tmp_path: Path
) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path, rate=1, window_s=60))
    answers = [await http.post("/v1/txt2img", json=BODY, headers=CALLER) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503] * 3  # no worker is there
    assert not redis.keys("ldm:rate:*")


async def test_many_refusals_at_once_are_owed_for_a_window_at_most(
    gateway: Gateway, announced: None, redis: Redis, tmp_path: Path
) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path, rate=2, window_s=60))
    bad = [http.post("/v1/txt2img", json={"no": 1}, headers=CALLER) for _ in range(20)]
    assert {answer.status_code for answer in await asyncio.gather(*bad)} <= {422, 429}
    assert redis.ttl("ldm:rate:alice") <= 120


async def test_a_key_without_a_rate_pays_nothing(
    gateway: Gateway, announced: None, redis: Redis, tmp_path: Path
) -> None:
    http = await gateway(api_keys_file=keys_with(tmp_path))
    answers = [await http.post("/v1/txt2img", json={"no": 1}, headers=CALLER) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [422] * 5
    assert not redis.keys("ldm:rate:*")
