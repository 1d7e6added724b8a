"""The gateway in this process, on a real Redis, with a scripted worker where a test wants one."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from PIL import Image
from redis import Redis

from service.app import create_app
from service.settings import GatewaySettings
from tests.abuse.conftest import start_gateway  # noqa: F401 - a fixture
from worker.store.keys import Key

Gateway = Callable[..., Awaitable[httpx.AsyncClient]]

CARD = """[{"id": "toy", "tasks": ["txt2img", "inpaint", "superres"], "native_size": [64, 64], "size_multiple": 16,
 "max_pixels": 65536, "default_steps": 4, "default_guidance_scale": 3.0, "default_for": ["txt2img"], "scale": 4},
 {"id": "plain", "tasks": ["txt2img"], "native_size": [64, 64], "size_multiple": 16, "max_pixels": 65536,
 "default_steps": 9, "default_guidance_scale": 1.0, "text": false}]"""


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> GatewaySettings:
    return GatewaySettings(redis_url=redis_url, data_dir=tmp_path, max_body_bytes=2**20, queue_limit=100)


@pytest_asyncio.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """Starts a gateway with the settings given; its client."""
    async with AsyncExitStack() as stack:

        async def start(**given: object) -> httpx.AsyncClient:
            app = create_app(settings.model_copy(update=given))
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app=app)
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
            return await stack.enter_async_context(client)

        yield start


@pytest_asyncio.fixture
async def http(gateway: Gateway) -> httpx.AsyncClient:
    """A client of a gateway as it comes."""
    return await gateway()


@pytest.fixture
def announced(redis: Redis) -> None:
    """Two models that a live worker says it serves; nobody takes their jobs."""
    redis.sadd(Key.WORKERS, "nobody")
    redis.set(Key.CARDS.of("nobody"), CARD)


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """An image in some mode and format, as bytes."""

    def encode(mode: str = "RGB", size: tuple[int, int] = (32, 32), form: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size, options.pop("color", 0)).save(buffer, form, **options)  # type: ignore[arg-type]
        return buffer.getvalue()

    return encode
