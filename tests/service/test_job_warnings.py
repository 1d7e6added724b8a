"""Nothing that is asked for and not honoured passes in silence: it stands in the job's `warnings`, or is refused."""

from __future__ import annotations

import json

import httpx
import pytest
from redis import Redis

from tests.service.problems import assert_refused
from worker.store.keys import Key

CARD = {
    "id": "toy", "tasks": ["txt2img", "inpaint"], "native_size": [64, 64], "size_multiple": 16, "max_pixels": 128 * 128,
    "max_side": 128, "default_steps": 4, "default_guidance_scale": 3.0, "default_for": ["txt2img"],
    "vocabulary": ["a", "house", "red"],
    "warnings": [{"code": "scheduler_setting_ignored", "detail": "use_karras_sigmas is ignored", "pointer": ""}],
}  # fmt: skip
OF_THE_CARD = "scheduler_setting_ignored"


@pytest.fixture
def served(redis: Redis) -> None:
    redis.sadd(Key.WORKERS, "nobody")
    redis.set(Key.CARDS.of("nobody"), json.dumps([CARD]))


async def warnings(http: httpx.AsyncClient, **fields: object) -> dict[str, tuple[str, str]]:
    """Pointer and detail of each warning that a new job has, by its code."""
    answer = await http.post("/v1/txt2img", json={"prompt": "a red house", **fields})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (await http.get(job["urls"]["self"])).json()["warnings"] == job["warnings"]
    return {each["code"]: (each["pointer"], each["detail"]) for each in job["warnings"]}


@pytest.mark.usefixtures("served")
async def test_a_job_whose_request_is_honoured_has_only_its_models_warnings(http: httpx.AsyncClient) -> None:
    assert await warnings(http) == {OF_THE_CARD: ("", "use_karras_sigmas is ignored")}


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("fields", "code", "pointer", "detail"),
    [
        ({"prompt": "A red dragon, 2 Häuser"}, "words_unknown", "/prompt", "dragon, 2, häuser"),
        ({"negative_prompt": "blurry"}, "words_unknown", "/negative_prompt", "blurry"),
        ({"prompt": "a (red:1.3) house"}, "prompt_syntax_ignored", "/prompt", "(red:1.3)"),
        ({"prompt": "a [red] house"}, "prompt_syntax_ignored", "/prompt", "[red]"),
        ({"prompt": "a house <lora:x:1>"}, "prompt_syntax_ignored", "/prompt", "<lora:x:1>"),
        ({"prompt": "a BREAK house"}, "prompt_syntax_ignored", "/prompt", "BREAK"),
        ({"prompt": "a house AND a tree"}, "prompt_syntax_ignored", "/prompt", "AND"),
        ({"prompt": "{a|the} house"}, "prompt_syntax_ignored", "/prompt", "{a|the}"),
        ({"prompt": "(a house)1.4"}, "prompt_syntax_ignored", "/prompt", "(a house)1.4"),
        ({"prompt": "a house++"}, "prompt_syntax_ignored", "/prompt", "++"),
        ({"prompt": "a red house 🏠"}, "words_unknown", "/prompt", ": 🏠."),
        ({"prompt": "3 red\x00 house"}, "words_unknown", "/prompt", ": 3, '\\x00'."),
        ({"negative_prompt": "red", "guidance_scale": 1}, "negative_prompt_ignored", "/negative_prompt", "no guidance"),
        ({"guidance_end": 0.5, "guidance_scale": 1}, "guidance_interval_ignored", "/guidance_end", "no guidance"),
        ({"width": 128}, "size_untrained", "/width", "128x64 is beyond 64x64"),
    ],
)
async def test_what_is_not_honoured_is_said(
    http: httpx.AsyncClient, fields: dict[str, object], code: str, pointer: str, detail: str
) -> None:
    found = await warnings(http, **fields)
    assert found[code][0] == pointer
    assert detail in found[code][1]


@pytest.mark.usefixtures("served")
async def test_plain_brackets_are_prose(http: httpx.AsyncClient) -> None:
    for prose in ("a house (red)", "A HOUSE AND A TREE", "a red house - by the sea!"):
        assert "prompt_syntax_ignored" not in await warnings(http, prompt=prose)
    assert set(await warnings(http, prompt="a house (red), red; house!")) == {OF_THE_CARD}


@pytest.mark.usefixtures("served")
async def test_a_size_that_the_model_cannot_draw_is_refused_with_the_largest(http: httpx.AsyncClient) -> None:
    for size in ({"width": 256}, {"width": 64, "height": 144}):
        answer = await http.post("/v1/txt2img", json={"prompt": "a red house", **size})
        assert_refused(answer, "/width", "at most 128x128")


@pytest.mark.usefixtures("served")
async def test_the_vocabulary_of_a_model_is_listed(http: httpx.AsyncClient) -> None:
    (model,) = (await http.get("/v1/models")).json()["data"]
    assert model["vocabulary"] == CARD["vocabulary"]
    assert model["max_side"] == 128
