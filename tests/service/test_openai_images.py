"""OpenAI's Images API at the gateway: errors, limits and what its fields become, without a worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.service.conftest import Gateway
from tests.service.problems import assert_problem

AT_ONCE = {"Prefer": "wait=0"}
GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{name}" for name in ("generations", "edits", "variations"))


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Checks that an error is a problem with OpenAI's error in it, and gives that."""
    problem = assert_problem(answer, status)
    error = dict(problem["error"])
    assert set(error) == {"message", "type", "param", "code"} and error["message"] == problem["detail"]
    return error


async def test_every_error_below_its_path_is_one_that_its_clients_read(gateway: Gateway, announced: None) -> None:
    http = await gateway(max_body_bytes=1024)
    assert error_of(await http.post("/v1/images/nothing", json={}), 404)["code"] == "not_found"
    assert error_of(await http.get(GENERATIONS), 405)["param"] is None
    assert error_of(await http.post(GENERATIONS, json={"prompt": "x" * 2000}), 413)["type"] == "invalid_request_error"
    assert error_of(await http.post(GENERATIONS, content=b"{", headers={"Content-Type": "application/json"}), 400)
    assert error_of(await http.post(GENERATIONS, data={"prompt": "x"}), 415)
    assert error_of(await http.post(EDITS, json={"prompt": "x"}), 415)
    assert error_of(await http.post(GENERATIONS, json={}), 422)["param"] == "prompt"
    assert "error" not in (await http.post("/v1/txt2img", json={})).json()


async def test_without_a_worker_it_is_overloaded(http: httpx.AsyncClient) -> None:
    error = error_of(await http.post(GENERATIONS, json={"prompt": "x"}), 503)
    assert error["type"] == "server_error" and error["code"] == "overloaded"


async def test_keys_rates_and_rights_are_those_of_every_job(gateway: Gateway, announced: None, tmp_path: Any) -> None:
    keys = tmp_path / "keys.toml"
    secret = "ldm_alice-0123456789"
    digest = sha256(secret.encode()).hexdigest()
    keys.write_text(f'[alice]\nsha256 = "{digest}"\nrate = 3\ntasks = ["txt2img"]\n')
    http = await gateway(api_keys_file=keys, api_keys=SecretStr(""))
    assert error_of(await http.post(GENERATIONS, json={"prompt": "x"}), 401)["code"] == "invalid_api_key"
    http.headers["Authorization"] = f"Bearer {secret}"
    made = await http.post(GENERATIONS, json={"prompt": "x"}, headers=AT_ONCE)
    assert made.status_code == 202 and made.headers["RateLimit-Remaining"] == "2"
    assert made.headers["X-Job-ID"] == made.json()["id"]
    form = {"image": ("a.png", b"x"), "mask": ("b.png", b"x")}
    assert error_of(await http.post(EDITS, data={"prompt": "x"}, files=form), 403)["code"] == "forbidden"
    assert error_of(await http.post(GENERATIONS, json={}), 422)
    late = await http.post(GENERATIONS, json={"prompt": "x"})
    assert error_of(late, 429)["type"] == "rate_limit_error" and int(late.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("fields", "became"),
    [
        ({"size": "32x96"}, {"width": 32, "height": 96, "format": "png"}),
        ({"size": "auto", "n": 3}, {"width": 64, "height": 64, "n": 3}),
        ({"output_format": "webp", "steps": 7}, {"format": "webp", "steps": 7}),
        ({"width": 32, "size": "auto"}, {"width": 32, "height": 64}),
    ],
)
async def test_its_fields_become_ours(
    http: httpx.AsyncClient, announced: None, fields: dict[str, Any], became: dict[str, Any]
) -> None:
    made = await http.post(GENERATIONS, json={"prompt": "x", **fields}, headers=AT_ONCE)
    assert made.status_code == 202, made.text
    assert became.items() <= made.json()["request"].items()
    assert {warning["pointer"] for warning in made.json()["warnings"]} <= {"/size"}


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({}, "txt2img"),
        ({"strength": "0"}, "txt2img"),
        ({"mask": "L"}, "inpaint"),
    ],
)
async def test_an_edit_inpaints_where_there_is_a_mask(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes], fields: dict[str, Any], task: str
) -> None:
    files = {"image": ("a.png", encoded(size=(64, 64)))}
    if "mask" in fields:
        files["mask"] = ("b.png", encoded(fields.pop("mask"), (64, 64), color=255))
    made = await http.post(EDITS, data={"prompt": "x", **fields}, files=files, headers=AT_ONCE)
    assert made.status_code == 202, made.text
    assert made.json()["task"] == task
    assert ("edited_whole" in made.text) == (task == "txt2img")


@pytest.mark.parametrize("name", ["strength", "width", "height"])
async def test_what_does_not_go_with_a_mask_is_refused(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes], name: str
) -> None:
    files = {"image": ("a.png", encoded(size=(64, 64))), "mask": ("b.png", encoded("L", (64, 64), color=255))}
    refused = await http.post(EDITS, data={"prompt": "x", name: "1"}, files=files)
    assert error_of(refused, 422)["param"] == name


async def test_images_twice_and_none_are_refused(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes]
) -> None:
    image = ("a.png", encoded(size=(64, 64)))
    both = await http.post(EDITS, data={"prompt": "x"}, files=[("image", image), ("image[]", image)])
    assert "image[] goes without image" in error_of(both, 422)["message"]
    assert error_of(await http.post(VARIATIONS, files={"model": (None, "toy")}), 422)["param"] == "image"
    assert error_of(await http.post(VARIATIONS, files={"image[]": image}), 422)["param"] == "image"


async def test_a_stream_says_why_there_are_no_images(http: httpx.AsyncClient, announced: None) -> None:
    async def cancel_soon() -> None:
        while not (jobs := (await http.get("/v1/jobs")).json()["data"]):
            await asyncio.sleep(0.02)
        await http.delete(f"/v1/jobs/{jobs[0]['id']}")

    streamed, _ = await asyncio.gather(http.post(GENERATIONS, json={"prompt": "x", "stream": True}), cancel_soon())
    assert streamed.status_code == 200 and streamed.headers["content-type"].startswith("text/event-stream")
    name, data = streamed.text.strip().splitlines()
    assert name == "event: error"
    assert "cancelled" in json.loads(data.removeprefix("data: "))["error"]["message"]


async def test_a_job_that_ended_without_images_is_not_sent_again(http: httpx.AsyncClient, announced: None) -> None:
    headers = {"Idempotency-Key": "one", **AT_ONCE}
    made = await http.post(GENERATIONS, json={"prompt": "x"}, headers=headers)
    await http.delete(made.headers["location"])
    again = await http.post(GENERATIONS, json={"prompt": "x"}, headers=headers)
    assert again.headers["X-Should-Retry"] == "false" and again.headers["Idempotent-Replay"] == "true"
    assert "cancelled" in error_of(again, 409)["message"]
