"""The unmodified client of the `mcp` library against `ldm serve`, in the protocol with a handshake and without."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image, ImageChops

from tests.documents import DOCS, blocks
from tests.end_to_end.serving import Served, base64_picture, eventually

PROMPT = "a red house by the sea"
KEY = "ldm_alice-0123456789"
QUICK: dict[str, Any] = {"prompt": PROMPT, "seed": 7, "steps": 3}


@asynccontextmanager
async def connected(url: str, mode: Any = "auto", key: str | None = None) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@pytest_asyncio.fixture(params=["legacy", "auto"])
async def mcp(request: pytest.FixtureRequest, served: Served) -> AsyncIterator[Callable[..., Any]]:
    """Calls a tool. The client lives in the call: its task group must end in the task that began it."""

    async def call(name: str, arguments: dict[str, Any], **options: Any) -> CallToolResult:
        async with connected(served.url, request.param) as client:
            return await client.call_tool(name, arguments, **options)

    yield call


def text_of(result: CallToolResult) -> str:
    (block,) = [block for block in result.content if isinstance(block, TextContent)]
    return block.text


def images_of(result: CallToolResult) -> list[bytes]:
    assert not result.is_error, text_of(result)
    return [base64.b64decode(block.data) for block in result.content if isinstance(block, ImageContent)]


def job_of(result: CallToolResult) -> str:
    return text_of(result).removeprefix("Job ").partition(",")[0]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_tools_say_what_the_models_take(served: Served, mode: str) -> None:
    async with connected(served.url, mode) as client:
        assert (client.protocol_version >= "2026") == (mode == "auto")
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == {"generate_image", "edit_image", "upscale_image", "list_models"}
    for tool in tools.values():
        assert tool.description and tool.input_schema["type"] == "object"
        assert "$ref" not in json.dumps(tool.input_schema)
    fields = tools["generate_image"].input_schema["properties"]
    assert fields["model"]["enum"] == ["scenes"] and "64x64" in fields["width"]["description"]
    assert tools["generate_image"].input_schema["required"] == ["prompt"]
    assert tools["upscale_image"].input_schema["properties"]["model"]["enum"] == ["scenes-superres"]


async def test_a_prompt_becomes_the_images_that_our_own_route_draws(served: Served, mcp: Callable[..., Any]) -> None:
    result = await mcp("generate_image", {**QUICK, "n": 2, "negative_prompt": "snow", "width": 64, "height": 48})
    own = served.submit("txt2img", **QUICK, n=2, negative_prompt="snow", width=64, height=48)
    served.finished(own["id"])
    assert images_of(result) == [served.image(own["id"], i) for i in range(2)]
    text = text_of(result)
    assert "seed 7, 64x48, image/png" in text and "seed 8" in text and f"{served.url}/v1/jobs/{job_of(result)}" in text


async def test_an_image_is_drawn_and_enlarged_in_one_call(mcp: Callable[..., Any]) -> None:
    (image,) = images_of(await mcp("generate_image", {**QUICK, "upscale": True}))
    assert Image.open(io.BytesIO(image)).size == (256, 256)


async def test_an_edit_leaves_what_its_mask_leaves_out(mcp: Callable[..., Any]) -> None:
    before = base64_picture(64, 64)
    result = await mcp("edit_image", {**QUICK, "image": before, "mask": base64_picture(64, 64, "L")})
    (after,) = images_of(result)
    difference = ImageChops.difference(Image.open(io.BytesIO(base64.b64decode(before))), Image.open(io.BytesIO(after)))
    assert difference.getbbox() is not None
    difference.paste(0, (16, 16, 48, 48))
    assert difference.getbbox() is None


async def test_an_image_drawn_before_is_edited_and_enlarged_by_its_job(served: Served, mcp: Callable[..., Any]) -> None:
    drawn = await mcp("generate_image", {**QUICK, "n": 2})
    edited = await mcp("edit_image", {**QUICK, "job_id": job_of(drawn), "index": 1, "strength": 0.6})
    image = base64.b64encode(images_of(drawn)[1]).decode()
    own = served.submit("txt2img", **QUICK, image=image, strength=0.6)
    served.finished(own["id"])
    assert images_of(edited) == [served.image(own["id"])]
    enlarged = await mcp("upscale_image", {"job_id": job_of(drawn), "steps": 2})
    assert Image.open(io.BytesIO(images_of(enlarged)[0])).size == (256, 256)


async def test_models_are_listed(mcp: Callable[..., Any]) -> None:
    listed = json.loads(text_of(await mcp("list_models", {})))
    assert [model["id"] for model in listed["data"]] == ["scenes", "scenes-superres"]


async def test_progress_is_told_step_by_step(mcp: Callable[..., Any]) -> None:
    heard: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total))

    result = await mcp("generate_image", {**QUICK, "steps": 200}, progress_callback=hear)
    assert images_of(result) and len(heard) > 3
    assert {total for _, total in heard} == {200} and [*heard] == sorted(set(heard))


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("generate_image", {}, "prompt: is required"),
    ("generate_image", {"prompt": PROMPT, "steps": 0, "n": 99}, "n: "),
    ("generate_image", {"prompt": PROMPT, "width": 65}, "width: must be a multiple of 16, got 65"),
    ("generate_image", {"prompt": PROMPT, "guidence": 1}, "guidence: is no field of generate_image"),
    ("generate_image", {"prompt": PROMPT, "image": "AAAA"}, "image: is no field of generate_image"),
    ("generate_image", {"prompt": PROMPT, "model": "dall-e"}, "'dall-e' is not served here"),
    ("edit_image", {"prompt": PROMPT}, "job_id"),
    ("edit_image", {"prompt": PROMPT, "image": "https://example.com/a.png"}, "image"),
    ("edit_image", {"prompt": PROMPT, "job_id": "0b6c"}, "There is no such job"),
    ("edit_image", {"prompt": PROMPT, "image": base64_picture(32, 32), "mask": base64_picture(64, 64, "L")}, "64x64"),
    ("upscale_image", {"image": base64_picture(8, 8), "index": 0}, "one of both"),
]


@pytest.mark.parametrize(("tool", "arguments", "told"), BAD)
async def test_what_is_refused_is_the_tools_error(
    served: Served, tool: str, arguments: dict[str, Any], told: str
) -> None:
    async with connected(served.url) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error and told in text_of(result)


async def test_an_image_that_is_not_there_is_named(mcp: Callable[..., Any]) -> None:
    drawn = await mcp("generate_image", QUICK)
    result = await mcp("upscale_image", {"job_id": job_of(drawn), "index": 1})
    assert result.is_error and "one of that job's 1 images" in text_of(result)


async def test_warnings_are_told(mcp: Callable[..., Any]) -> None:
    result = await mcp("generate_image", {**QUICK, "guidance_scale": 1, "negative_prompt": "snow"})
    assert "Warning negative_prompt_ignored: It has no effect" in text_of(result)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_that_hangs_up_leaves_its_job_running(served: Served, mode: str) -> None:
    asked = {"prompt": PROMPT, "steps": 400, "seed": 11}

    async def call() -> None:
        async with connected(served.url, mode) as client:
            await client.call_tool("generate_image", asked)

    before = {job["id"] for job in served.http.get("/v1/jobs").json()["data"]}
    task = asyncio.create_task(call())
    while not (new := {job["id"] for job in served.http.get("/v1/jobs").json()["data"]} - before):
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await asyncio.to_thread(served.finished, *new))["status"] == "succeeded"
    eventually(lambda: "POST /mcp 200" in served.log() or "POST /mcp 499" in served.log())
    assert "Traceback" not in served.log()


async def test_a_job_is_its_keys(serve: Callable[..., Served]) -> None:
    service = serve(api_keys=f"alice:{KEY},bob:{KEY}-of-bob")
    service.wait_until_ready()
    async with connected(service.url, key=KEY) as client:
        drawn = await client.call_tool("generate_image", QUICK)
        assert images_of(drawn)
    url = text_of(drawn).splitlines()[1].rpartition(" ")[2]
    assert httpx2.get(url).status_code == 200  # it is signed
    async with connected(service.url, key=f"{KEY}-of-bob") as client:
        result = await client.call_tool("upscale_image", {"job_id": job_of(drawn)})
        assert result.is_error and "There is no such job" in text_of(result)
    for key in (None, "ldm_wrong-0123456789"):
        with pytest.RaisesGroup(MCPError, flatten_subgroups=True):
            async with connected(service.url, key=key) as client:
                await client.list_tools()
    refused = service.http.post("/mcp", json={})
    assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
    assert refused.json()["detail"] == "send your API key: Authorization: Bearer KEY."


def test_the_configuration_of_the_documentation_names_the_address() -> None:
    (text,) = [block for block in blocks("json", DOCS / "clients.md") if "mcpServers" in block]
    (server,) = json.loads(text)["mcpServers"].values()
    assert server["url"] == "http://localhost:8000/mcp" and server["headers"]["Authorization"].startswith("Bearer ")
