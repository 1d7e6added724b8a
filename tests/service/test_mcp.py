"""The Model Context Protocol at the gateway: keys, limits, other sites, and how it is answered, without a worker."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import httpx
import numpy as np
import pytest
from mcp import Client
from PIL import Image

from ldm_core.params import GenerationParams
from service.answers.mcp_answers import MAX_CHARS, content_of
from tests.abuse.gateway import Gateway as GatewayProcess
from tests.documents import ROOT
from tests.end_to_end.test_mcp import connected, text_of
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from worker.engine.encode import encode
from worker.jobs import JobPayload, JobView, StoredImage

HEADERS = {"Accept": "application/json, text/event-stream"}
PROMPT = {"prompt": "x"}


def called(name: str, **arguments: Any) -> dict[str, Any]:
    """A call of a tool as the protocol of 2025 sends it."""
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def test_a_full_queue_is_the_tools_error_and_says_when_to_try_again(
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    gateway = start_gateway(queue_limit=1)
    httpx.post(f"{gateway.url}/v1/txt2img", json=PROMPT).raise_for_status()
    async with connected(gateway.url) as client:
        result = await client.call_tool("generate_image", PROMPT)
    assert result.is_error and "Try again in " in text_of(result)
    refused = 'ldm_jobs_refused_total{key="",reason="queue_full"} 1.0'
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert refused in metrics and 'route="/mcp"' in metrics


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_gateway_that_stops_says_where_the_job_goes_on(
    start_gateway: Callable[..., GatewayProcess], mode: str
) -> None:
    gateway = start_gateway()
    async with connected(gateway.url, mode) as client:
        call = asyncio.create_task(client.call_tool("generate_image", PROMPT))
        while not httpx.get(f"{gateway.url}/v1/jobs").json()["data"]:
            await asyncio.sleep(0.05)
        gateway.process.terminate()
        result = await call
    assert result.is_error and "The job goes on: /v1/jobs/" in text_of(result)
    assert "again" not in text_of(result)


async def test_rates_and_rights_are_those_of_every_job(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Any
) -> None:
    secret = "ldm_alice-0123456789"
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[alice]\nsha256 = "{sha256(secret.encode()).hexdigest()}"\nrate = 1\ntasks = ["txt2img"]\n')
    gateway = start_gateway(api_keys_file=keys)
    async with connected(gateway.url, key=secret) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"generate_image", "edit_image", "list_models"}
        forbidden = await client.call_tool("upscale_image", {"image": "AAAA"})
        assert forbidden.is_error and "may not use superres" in text_of(forbidden)
        assert (await client.call_tool("generate_image", {})).is_error  # costs as much as a job
        too_fast = await client.call_tool("generate_image", PROMPT)
        assert too_fast.is_error and "Try again in " in text_of(too_fast)
    assert "POST /mcp 200" in gateway.log()


async def test_without_a_worker_tools_are_listed_and_calls_say_so(http: httpx.AsyncClient) -> None:
    answer = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers=HEADERS)
    assert '"generate_image"' in answer.text
    answer = await http.post("/mcp", json=called("generate_image", **PROMPT), headers=HEADERS)
    assert "No worker is there to take the job" in answer.text and '"isError":true' in answer.text


async def test_other_methods_and_other_sites_are_refused(http: httpx.AsyncClient) -> None:
    """There is no stream to open and no session to end."""
    for method in ("GET", "DELETE"):
        assert "POST" in (await http.request(method, "/mcp", headers=HEADERS)).headers["Allow"]
        assert_problem(await http.request(method, "/mcp", headers=HEADERS), 405)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert_problem(await http.post("/mcp", json=body, headers={**HEADERS, "Host": "evil.example"}), 421)
    assert_problem(await http.post("/mcp", json=body, headers={**HEADERS, "Origin": "http://evil.example"}), 403)
    assert_problem(await http.post("/mcp", content=b" " * 2**21, headers=HEADERS), 413)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"jsonrpc": "2.0"}', b'{"id": ' + b"9" * 5000 + b"}", b"[" * 10**5]
)
@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28", "1999-01-01"])
async def test_what_is_none_of_the_protocol_is_refused(http: httpx.AsyncClient, body: bytes, version: str) -> None:
    headers = {**HEADERS, "Content-Type": "application/json", "MCP-Protocol-Version": version}
    answer = await http.post("/mcp", content=body, headers=headers)
    assert answer.status_code == 400 and "error" in answer.json() and "Traceback" not in answer.text


async def test_it_can_be_turned_off(gateway: Gateway) -> None:
    http = await gateway(mcp=False)
    assert_problem(await http.post("/mcp", json=called("list_models"), headers=HEADERS), 404)


async def test_an_unknown_tool_is_an_error_of_the_protocol(start_gateway: Callable[..., GatewayProcess]) -> None:
    async with Client(f"{start_gateway().url}/mcp") as client:
        with pytest.raises(Exception, match="There is no tool 'draw'"):
            await client.call_tool("draw", {})


def test_a_gateway_that_nobody_asks_does_not_load_the_library() -> None:
    program = "import service.app, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"mcp", "mcp_types", "sse_starlette", "jsonschema"} & set(done.stdout.split())


@pytest.mark.parametrize("count", [1, 2])
def test_large_images_are_shown_as_copies_that_say_what_they_are(count: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    data = encode(Image.fromarray(noise), "png", None)
    params = GenerationParams(
        task="txt2img", width=1024, height=1024, steps=1, guidance_scale=1.0, seed=7, prompt="", n=count
    )
    stored = StoredImage(seed=7, width=1024, height=1024, content_type="image/png", bytes=len(data), sha256="")
    view = JobView(
        payload=JobPayload(id="a", model="m", params=params), status="succeeded", step=1, created_at=0,
        images=(stored,) * count,
    )  # fmt: skip
    *images, text = content_of(view, [data] * count, ["http://x/0"] * count)
    assert text.type == "text" and text.text.count("a smaller copy") == count
    assert sum(len(image.data) for image in images if image.type == "image") < MAX_CHARS
    for image in images:
        assert image.type == "image" and image.mime_type == "image/webp"
        copy = base64.b64decode(image.data)
        assert b"trainedAlgorithmicMedia" in copy and min(Image.open(io.BytesIO(copy)).size) >= 256
