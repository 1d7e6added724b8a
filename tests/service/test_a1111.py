"""AUTOMATIC1111's API at the gateway: the model that is chosen once, limits, rights, and passwords that are keys."""

from __future__ import annotations

import base64
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess

ALICE, BOB = "ldm_alice-0123456789", "ldm_bob-0123456789"
KEYS = SecretStr(f"alice:{ALICE},bob:{BOB}")
API = "/sdapi/v1"


async def chosen(http: httpx.AsyncClient, key: str) -> str:
    answer = await http.get(f"{API}/options", auth=("anybody", key))
    return str(answer.json()["sd_model_checkpoint"])


async def test_a_model_is_chosen_once_by_each_key_and_draws_from_then_on(gateway: Gateway, announced: None) -> None:
    http, alice = await gateway(api_keys=KEYS), ("anybody", ALICE)
    assert await chosen(http, ALICE) == "toy"
    answer = await http.post(f"{API}/options", json={"sd_model_checkpoint": "plain"}, auth=alice)
    assert (answer.status_code, answer.json()) == (200, None)
    assert (await chosen(http, ALICE), await chosen(http, BOB)) == ("plain", "toy")
    refused = assert_problem(await http.post(f"{API}/txt2img", json={"prompt": "a boat"}, auth=alice), 422)
    assert refused["detail"] == "prompt: model 'plain' takes no text"
    other = {"prompt": "a boat", "width": 8, "override_settings": {"sd_model_checkpoint": "toy"}}
    refused = assert_problem(await http.post(f"{API}/txt2img", json=other, auth=alice), 422)
    assert (
        refused["detail"]
        == "width: must be a multiple of 16, got 8 (at most 256x256, or as many pixels in another shape)"
    )


async def test_a_full_queue_refuses_here_too(gateway: Gateway, announced: None) -> None:
    http = await gateway(queue_limit=1)
    assert (await http.post("/v1/txt2img", json={"prompt": "a boat"})).status_code == 202
    refused = await http.post(f"{API}/txt2img", json={"prompt": "a boat"})
    assert_problem(refused, 429)
    assert int(refused.headers["retry-after"]) > 0
    assert 'ldm_jobs_refused_total{key="",reason="queue_full"} 1.0' in (await http.get("/metrics")).text


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !", "Basic é", f"Basic {base64.b64encode(ALICE.encode()).decode()}", "Digest x",
     f"Basic {base64.b64encode(b'x:').decode()}", f"Basic {base64.b64encode(b'x:unknown-key').decode()}"],
)  # fmt: skip
async def test_a_password_that_is_no_key_lets_nobody_in(gateway: Gateway, header: str) -> None:
    http = await gateway(api_keys=KEYS)
    for method, path in (("GET", "options"), ("GET", "loras"), ("POST", "interrupt"), ("POST", "png-info")):
        answer = await http.request(method, f"{API}/{path}", headers={"Authorization": header.encode("latin-1")})
        assert_problem(answer, 401)


async def test_a_bearer_token_is_as_good_as_a_password(gateway: Gateway, announced: None) -> None:
    http = await gateway(api_keys=KEYS)
    answer = await http.get(f"{API}/sd-models", headers={"Authorization": f"Bearer {BOB}"})
    assert [each["title"] for each in answer.json()] == ["toy", "plain"]


async def test_nothing_runs_and_there_is_nothing_to_interrupt(http: httpx.AsyncClient, announced: None) -> None:
    shown = (await http.get(f"{API}/progress")).json()
    assert (shown["progress"], shown["current_image"], shown["state"]["job_count"]) == (0.0, None, 0)
    assert (await http.post(f"{API}/interrupt")).json() == {}
    assert (await http.post(f"{API}/skip")).json() is None
    assert (await http.get(f"{API}/unknown")).status_code == 404
    assert API not in (await http.get("/openapi.json")).text


async def test_a_request_that_is_sent_again_under_its_key_makes_one_job(
    http: httpx.AsyncClient, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker()
    headers, body = {"Idempotency-Key": "order-1"}, {"prompt": "a boat", "batch_size": 2, "send_images": False}
    first, again = [await http.post(f"{API}/txt2img", json=body, headers=headers) for _ in range(2)]
    assert "idempotent-replay" not in first.headers and again.headers["idempotent-replay"] == "true"
    assert first.json() == again.json()  # with the seed that was drawn for it
    assert len((await http.get("/v1/jobs")).json()["data"]) == 1
    for other in ({**body, "prompt": "an oak"}, {**body, "send_images": True}):
        assert_problem(await http.post(f"{API}/txt2img", json=other, headers=headers), 422)
    assert_problem(await http.post("/v1/txt2img", json={"prompt": "a boat"}, headers=headers), 422)


async def test_several_images_to_enlarge_take_no_idempotency_key(
    http: httpx.AsyncClient, announced: None, redis: Redis, encoded: Callable[..., bytes]
) -> None:
    image = base64.b64encode(encoded()).decode()
    body = {"upscaling_resize": 4, "imageList": [{"data": image, "name": "a"}] * 2}
    refused = await http.post(f"{API}/extra-batch-images", json=body, headers={"Idempotency-Key": "order-1"})
    assert "one image" in assert_problem(refused, 400)["detail"]
    assert redis.zcard("ldm:open") == 0
