"""OpenAI's own SDK, as it comes, against `ldm serve`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageChops

from tests.end_to_end.serving import Served, picture

PROMPT = "a red house by the sea"
QUICK: dict[str, Any] = {"seed": 7, "steps": 3}
SLOW: dict[str, Any] = {"seed": 7, "steps": 300}


@pytest.fixture(scope="module")
def sdk(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def opened(b64_json: str | None, kind: str = "PNG") -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64_json or "")))
    image.load()
    assert image.format == kind
    return image


def with_hole(mode: str = "RGBA") -> bytes:
    """A mask as OpenAI's guide makes it: white, and transparent in the middle."""
    mask = Image.new(mode, (64, 64), (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (16, 16, 48, 48))
    data = io.BytesIO()
    mask.save(data, "PNG")
    return data.getvalue()


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def codes(answer: Any) -> set[str]:
    return {warning["code"] for warning in answer.warnings}


def test_a_prompt_becomes_the_image_that_our_own_route_draws(served: Served, sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(prompt=PROMPT, size="64x64", n=2, extra_body=QUICK)
    assert answer.data and len(answer.data) == 2
    assert answer.size == "64x64" and answer.output_format == "png" and answer.background == "opaque"
    assert answer.usage and answer.usage.total_tokens == 0
    own = served.submit("txt2img", prompt=PROMPT, n=2, **QUICK)
    served.finished(own["id"])
    for i, image in enumerate(answer.data):
        assert image.url is None
        assert base64.b64decode(image.b64_json or "") == served.image(own["id"], i)
    extra: Any = answer
    assert served.job(extra.job_id)["status"] == "succeeded"


def test_urls_lead_to_the_images(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(prompt=PROMPT, response_format="url", output_format="webp", extra_body=QUICK)
    assert answer.data and answer.data[0].b64_json is None
    image = httpx.get(answer.data[0].url or "").raise_for_status()
    assert image.headers["Content-Type"] == "image/webp" and answer.output_format == "webp"


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_output_formats(sdk: openai.OpenAI, kind: Any) -> None:
    answer = sdk.images.generate(prompt=PROMPT, output_format=kind, extra_body=QUICK)
    assert answer.data and opened(answer.data[0].b64_json, kind.upper()).size == (64, 64)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_compression_is_that_of_our_own_field(served: Served, sdk: openai.OpenAI, kind: Any) -> None:
    small, large = (
        sdk.images.generate(prompt=PROMPT, output_format=kind, output_compression=quality, extra_body=QUICK)
        for quality in (20, 100)
    )
    assert small.data and large.data and 2 * len(small.data[0].b64_json or "") < len(large.data[0].b64_json or "")
    own = served.finished(served.submit("txt2img", prompt=PROMPT, format=kind, output_compression=20, **QUICK)["id"])
    assert own["request"]["output_compression"] == 20
    assert base64.b64decode(small.data[0].b64_json or "") == served.image(own["id"])


def test_a_png_has_no_compression_to_choose(sdk: openai.OpenAI) -> None:
    assert "output_compression_ignored" in codes(
        sdk.images.generate(prompt=PROMPT, output_compression=20, extra_body=QUICK)
    )


def test_what_cannot_be_heeded_is_named(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(
        prompt=PROMPT, quality="high", style="vivid", output_format="jpeg", output_compression=50, moderation="low",
        background="opaque", user="somebody", safety_identifier="somebody", partial_images=2, size="auto",
        extra_body=QUICK,
    )  # fmt: skip
    told = {"quality_ignored", "style_ignored", "partial_images_ignored"}
    assert told <= codes(answer) and "output_compression_ignored" not in codes(answer)
    plain = sdk.images.generate(prompt=PROMPT, quality="auto", size="auto", extra_body=QUICK)
    assert not {code for code in codes(plain) if code.endswith("_ignored")}


def test_an_edit_leaves_what_its_mask_covers(sdk: openai.OpenAI) -> None:
    before = Image.open(io.BytesIO(picture(64, 64)))
    answer = sdk.images.edit(
        image=("photo.png", picture(64, 64)), mask=("mask.png", with_hole()), prompt=PROMPT, size="64x64",
        extra_body=QUICK,
    )  # fmt: skip
    assert answer.data
    difference = ImageChops.difference(before, opened(answer.data[0].b64_json))
    assert difference.getbbox() is not None
    difference.paste(0, (16, 16, 48, 48))
    assert difference.getbbox() is None
    assert "edited_whole" not in codes(answer)


def test_the_hole_of_an_image_is_its_mask(sdk: openai.OpenAI) -> None:
    image = Image.open(io.BytesIO(picture(64, 64))).convert("RGBA")
    image.paste((0, 0, 0, 0), (16, 16, 48, 48))
    answer = sdk.images.edit(image=[("photo.png", png(image))], prompt=PROMPT, extra_body=QUICK)
    assert answer.data
    difference = ImageChops.difference(image.convert("RGB"), opened(answer.data[0].b64_json))
    difference.paste(0, (16, 16, 48, 48))
    assert difference.getbbox() is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_edit_without_a_hole_is_image_to_image(served: Served, sdk: openai.OpenAI, mode: str) -> None:
    image = png(Image.open(io.BytesIO(picture(64, 64))).convert(mode))
    answer = sdk.images.edit(image=("photo.png", image), prompt=PROMPT, extra_body=QUICK)
    assert "edited_whole" in codes(answer)
    job = served.submit("txt2img", prompt=PROMPT, image=base64.b64encode(image).decode(), **QUICK)
    served.finished(job["id"])
    assert answer.data and base64.b64decode(answer.data[0].b64_json or "") == served.image(job["id"])


def test_a_variation_is_image_to_image_without_a_prompt(served: Served, sdk: openai.OpenAI) -> None:
    image = picture(64, 64)
    with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI has retired its own
        answer = sdk.images.create_variation(image=("photo.png", image), n=1, extra_body=QUICK)
    job = served.submit("txt2img", prompt="", image=base64.b64encode(image).decode(), **QUICK)
    served.finished(job["id"])
    assert answer.data and base64.b64decode(answer.data[0].b64_json or "") == served.image(job["id"])


async def test_the_asynchronous_client(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        answer = await sdk.images.generate(prompt=PROMPT, extra_body=QUICK)
        assert answer.data and opened(answer.data[0].b64_json).size == (64, 64)
        stream = await sdk.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=SLOW)
        kinds = [event.type async for event in stream]
        assert kinds[-1] == "image_generation.completed"
        assert set(kinds[:-1]) == {"image_generation.partial_image"}


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_a_stream_has_partial_images_and_then_the_image(served: Served, sdk: openai.OpenAI, wanted: int) -> None:
    with sdk.images.generate(prompt=PROMPT, stream=True, partial_images=wanted, extra_body=SLOW) as stream:
        *partial, completed = list(stream)
    assert len(partial) <= wanted and bool(partial) == bool(wanted)
    for i, event in enumerate(partial):
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == i and event.size == "64x64" and event.background == "opaque"
        assert opened(event.b64_json, event.output_format.upper()).width > 0
    assert completed.type == "image_generation.completed"
    assert completed.usage.total_tokens == 0 and completed.output_format == "png" and completed.created_at > 0
    extra: Any = completed
    assert base64.b64decode(completed.b64_json) == served.image(extra.job_id)


def test_an_edit_as_a_stream(sdk: openai.OpenAI) -> None:
    stream = sdk.images.edit(
        image=("photo.png", picture(64, 64)), mask=("mask.png", with_hole()), prompt=PROMPT, stream=True, n=2,
        partial_images=1, extra_body=SLOW,
    )  # fmt: skip
    *partial, first, second = list(stream)
    assert [event.type for event in partial] == ["image_edit.partial_image"]
    assert first.type == second.type == "image_edit.completed"
    extra: Any = [first, second]
    assert [event.seed for event in extra] == [7, 8]


def test_a_client_that_hangs_up_leaves_its_job_running(served: Served, sdk: openai.OpenAI) -> None:
    with sdk.images.generate(prompt=PROMPT, stream=True, partial_images=1, extra_body=SLOW) as stream:
        job = stream.response.headers["X-Job-ID"]
        next(iter(stream))
    assert served.finished(job)["status"] == "succeeded"


def test_a_job_that_is_cancelled_ends_its_stream_with_an_error(served: Served, sdk: openai.OpenAI) -> None:
    with sdk.images.generate(prompt=PROMPT, stream=True, extra_body={**SLOW, "steps": 1000}) as stream:
        job = stream.response.headers["X-Job-ID"]
        served.http.delete(f"/v1/jobs/{job}")
        with pytest.raises(openai.APIError, match="cancelled"):
            list(stream)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"size": "65x64"}, "size"),
    ({"size": "1024x1024"}, "size"),
    ({"size": "large"}, "size"),
    ({"n": 99}, "n"),
    ({"background": "transparent"}, "background"),
    ({"model": "gpt-image-1"}, "model"),
    ({"output_format": "gif"}, "output_format"),
    ({"size": "64x64", "extra_body": {"width": 32}}, "size"),
    ({"output_format": "jpeg", "extra_body": {"format": "webp"}}, "output_format"),
    ({"extra_body": {"guidence_scale": 3}}, "guidence_scale"),
    ({"extra_body": {"sampler": "unheard of"}}, "sampler"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_a_bad_request_names_its_field(sdk: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refusal:
        sdk.images.generate(**{"prompt": PROMPT, **fields})
    error = refusal.value
    assert error.param == param and error.type == "invalid_request_error" and error.code == "invalid_value"
    problem = error.response.json()
    assert problem["errors"][0]["pointer"] == f"/{param}" and problem["error"]["message"] == problem["detail"]
    assert error.request_id == problem["request_id"]


def test_a_mask_of_another_size_is_refused(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="64x64, the image is 32x32") as refusal:
        sdk.images.edit(image=("photo.png", picture(32, 32)), mask=("mask.png", with_hole()), prompt=PROMPT)
    assert refusal.value.param == "mask"


@pytest.mark.parametrize("fields", [{}, {"mask": ("mask.png", with_hole())}])
def test_more_images_than_one_are_refused(sdk: openai.OpenAI, fields: dict[str, Any]) -> None:
    images = [("photo.png", picture(64, 64))] * 2
    with pytest.raises(openai.UnprocessableEntityError) as refusal:
        sdk.images.edit(image=images, prompt=PROMPT, **fields)
    assert refusal.value.param == "image"


def test_the_size_of_an_edit_is_its_images(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="64x64: the image gives the size") as refusal:
        sdk.images.edit(image=("photo.png", picture(64, 64)), prompt=PROMPT, size="256x256")
    assert refusal.value.param == "size"


def test_not_done_in_time_is_answered_with_the_job(served: Served) -> None:
    body = {"prompt": PROMPT, **SLOW, "steps": 1000}
    answer = served.http.post("/v1/images/generations", json=body, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202 and answer.json()["status"] in {"queued", "running"}
    served.http.delete(answer.headers["Location"])


def test_an_idempotency_key_gives_the_same_images_again(sdk: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "openai-1"}
    made = [
        sdk.images.with_raw_response.generate(prompt=PROMPT, extra_body={"steps": 3}, extra_headers=headers)
        for _ in range(2)
    ]
    assert [answer.headers.get("Idempotent-Replay") for answer in made] == [None, "true"]
    first, again = (answer.parse() for answer in made)
    assert first.data == again.data
    with pytest.raises(openai.UnprocessableEntityError):
        sdk.images.generate(prompt="another", extra_headers=headers)


@pytest.mark.slow
def test_keys_and_limits(serve: Any, tmp_path: Path, tiny_dirs: list[Path]) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    service = serve([tiny_dirs[0]], api_keys="alice:ldm_alice-0123456789", queue_limit=1)
    service.http.headers["Authorization"] = "Bearer ldm_alice-0123456789"
    service.wait_until_ready()
    wrong = openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refusal:
        wrong.images.generate(prompt=PROMPT)
    assert refusal.value.code == "invalid_api_key"
    right = openai.OpenAI(base_url=f"{service.url}/v1", api_key="ldm_alice-0123456789", max_retries=0)
    assert right.models.list().data[0].id == "scenes"
    assert right.images.generate(prompt=PROMPT, extra_body=QUICK).data
    job = service.submit("txt2img", prompt=PROMPT, steps=1000)
    with pytest.raises(openai.RateLimitError) as full:
        right.images.generate(prompt=PROMPT)
    assert full.value.code == "rate_limit_exceeded" and int(full.value.response.headers["Retry-After"]) > 0
    service.http.delete(f"/v1/jobs/{job['id']}")
    for client in (wrong, right):
        client.close()


@pytest.mark.parametrize(("trusted", "scheme"), [("127.0.0.1", "https"), ("10.0.0.0/8", "http")])
def test_addresses_have_the_scheme_that_a_trusted_proxy_names(
    serve: Callable[..., Served], trusted: str, scheme: str
) -> None:
    service = serve(trusted_proxies=trusted, allowed_hosts="draw.example.com")
    service.wait_until_ready()
    sent = {"Host": "draw.example.com", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    asked = {"prompt": "a boat", "response_format": "url"}
    answer = service.http.post("/v1/images/generations", json=asked, headers=sent)
    assert answer.json()["data"][0]["url"].startswith(f"{scheme}://draw.example.com/v1/jobs/")
