"""`upscale` in a request: which model enlarges, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from service.access.auth import new_key
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from worker.store.keys import Key
from worker.store.records import payload_of

BASE = {"native_size": [64, 64], "max_pixels": 128 * 128, "default_steps": 4, "default_guidance_scale": 3.0}
DRAWS = {**BASE, "id": "draws", "tasks": ["txt2img", "inpaint"], "size_multiple": 16}
UPSCALES = {
    **BASE, "id": "upscales", "tasks": ["superres"], "size_multiple": 4, "scale": 4, "default_steps": 7,
    "default_guidance_scale": 1.0, "max_pixels": 256 * 256, "text": False, "default_sampler": "euler",
    "warnings": [{"code": "of_the_model", "detail": "Something.", "pointer": ""}],
}  # fmt: skip
ASKED = {"prompt": "a boat", "upscale": True, "seed": 7, "n": 2}


def serve(redis: Redis, **workers: list[dict[str, Any]]) -> None:
    for name, cards in workers.items():
        redis.sadd(Key.WORKERS, name)
        redis.set(Key.CARDS.of(name), json.dumps(cards))


async def test_a_worker_that_serves_both_models_enlarges(http: httpx.AsyncClient, redis: Redis) -> None:
    serve(redis, one=[DRAWS], two=[DRAWS, UPSCALES])
    answer = await http.post("/v1/txt2img", json=ASKED)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["steps"], job["request"]["upscale"], job["request"]["steps"]) == (11, True, 4)
    assert (job["request"]["width"], job["model"]) == (64, "draws")
    assert [warning["code"] for warning in job["warnings"]] == ["of_the_model"]
    payload = payload_of(redis.hget(f"rq:job:{job['id']}", "data") or b"")
    assert payload.upscale is not None
    told = payload.upscale.params
    assert (payload.upscale.model, told.task, told.width, told.steps, told.seed, told.n) == (
        "upscales", "superres", 256, 7, 7, 2,
    )  # fmt: skip
    assert (told.prompt, told.sampler) == ("", "euler")
    again = await http.post("/v1/txt2img", json=job["request"])
    assert again.json()["request"] == job["request"], "what is echoed makes the same job"


async def test_the_text_goes_to_an_upscaler_that_takes_text(http: httpx.AsyncClient, redis: Redis) -> None:
    serve(redis, one=[DRAWS, {**UPSCALES, "text": True}])
    job = (await http.post("/v1/txt2img", json={**ASKED, "negative_prompt": "a house"})).json()
    payload = payload_of(redis.hget(f"rq:job:{job['id']}", "data") or b"")
    assert payload.upscale is not None
    assert (payload.upscale.params.prompt, payload.upscale.params.negative_prompt) == ("a boat", "a house")


async def test_without_a_super_resolution_model_beside_it_is_refused(http: httpx.AsyncClient, redis: Redis) -> None:
    serve(redis, one=[DRAWS])
    problem = assert_problem(await http.post("/v1/txt2img", json=ASKED), 422)
    assert problem["errors"] == [
        {"pointer": "/upscale", "detail": "no super-resolution model is served beside 'draws'"}
    ]
    serve(redis, two=[UPSCALES])  # on another worker, which cannot draw
    assert_problem(await http.post("/v1/txt2img", json=ASKED), 422)
    assert redis.keys("rq:job:*") == []


async def test_one_that_is_only_away_is_worth_another_try(http: httpx.AsyncClient, redis: Redis) -> None:
    serve(redis, one=[DRAWS])
    redis.zadd(Key.KNOWN_MODELS, {json.dumps({"id": "upscales", "tasks": ["superres"]}): 1})
    answer = await http.post("/v1/txt2img", json=ASKED)
    assert "'upscales'" in assert_problem(answer, 503)["detail"]
    assert answer.headers["retry-after"]


async def test_an_image_too_large_for_the_upscaler_is_refused_with_the_limit(
    http: httpx.AsyncClient, redis: Redis
) -> None:
    serve(redis, one=[DRAWS, UPSCALES])
    problem = assert_problem(await http.post("/v1/txt2img", json={**ASKED, "width": 128, "height": 128}), 422)
    (error,) = problem["errors"]
    assert error["pointer"] == "/upscale"
    assert error["detail"].startswith("the image is 128x128, too large for model 'upscales': at most 64x64")


async def test_what_enlarges_by_itself_takes_no_upscale(
    http: httpx.AsyncClient, redis: Redis, encoded: Callable[..., bytes]
) -> None:
    serve(redis, one=[DRAWS, UPSCALES])
    image = base64.b64encode(encoded(size=(16, 16))).decode()
    refused = await http.post("/v1/superres", json={"image": image, "upscale": True})
    assert assert_problem(refused, 422)["errors"][0]["pointer"] == "/upscale"
    job = (await http.post("/v1/superres", json={"image": image})).json()
    assert "upscale" not in job["request"]


async def test_a_form_and_openais_route_take_it_too(
    http: httpx.AsyncClient, redis: Redis, encoded: Callable[..., bytes]
) -> None:
    serve(redis, one=[DRAWS, UPSCALES])
    files = {"image": ("a.png", encoded("RGB")), "mask": ("m.png", encoded("L", color=255))}
    form = await http.post("/v1/inpaint", files=files, data={"prompt": "a boat", "upscale": "true"})
    assert form.json()["request"]["upscale"] is True
    openai = await http.post(
        "/v1/images/generations", json={"prompt": "a boat", "upscale": True}, headers={"Prefer": "wait=0"}
    )
    listed = (await http.get("/v1/jobs")).json()["data"]
    assert [job["request"]["upscale"] for job in listed] == [True, True], openai.text


async def test_a_key_needs_the_right_to_enlarge(gateway: Gateway, redis: Redis, tmp_path: Path) -> None:
    serve(redis, one=[DRAWS, UPSCALES])
    (drawer, of_drawer), (painter, of_painter) = new_key("drawer"), new_key("painter")
    file = tmp_path / "keys.toml"
    file.write_text(f'{of_drawer}tasks = ["txt2img"]\n{of_painter}models = ["draws"]\n')
    http = await gateway(api_keys_file=file)
    for secret, word in ((drawer, "superres"), (painter, "upscales")):
        answer = await http.post("/v1/txt2img", json=ASKED, headers={"Authorization": f"Bearer {secret}"})
        assert word in assert_problem(answer, 403)["detail"]
