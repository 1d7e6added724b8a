"""The two clients, which differ in how they do what a flow asks for: one waits, the other awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from ldm_client.answers import Model
from ldm_client.flows import Chunk, Emit, Flow, Sleep, Walk
from ldm_client.jobs import AsyncJob, Job
from ldm_client.tasks import AnyClient

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Client(AnyClient[Job, Generator[Job, None, None], list[Model], str]):
    """A client whose methods return when they are done. Threads may share it."""

    _kind = Job

    def _open(self, options: Mapping[str, Any]) -> None:
        self._http = httpx.Client(**options)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        with closing(self._emitted(flow)) as emitted:
            return next(emitted)

    def _emitted(self, flow: Flow[T]) -> Generator[T, None, None]:
        walk = Walk(flow)
        chunks: Any = None  # of the response that came last
        with ExitStack() as opened:
            while (effect := walk.effect) is not None:
                answer: Any = None
                try:
                    if isinstance(effect, Emit):
                        yield effect.value
                    elif isinstance(effect, Sleep):
                        time.sleep(effect.seconds)
                    elif isinstance(effect, Chunk):
                        answer = next(chunks, None)
                    else:
                        opened.close()
                        answer = self._http.send(self._http.build_request(**self._request(effect)), stream=True)
                        opened.callback(answer.close)
                        chunks = answer.iter_bytes()
                        if not effect.stream or answer.status_code != 200:
                            answer.read()
                except httpx.TransportError as error:
                    walk.fail(error)
                else:
                    walk.go(answer)


class AsyncClient(
    AnyClient[Awaitable[AsyncJob], AsyncGenerator[AsyncJob, None], Awaitable[list[Model]], Awaitable[str]]
):
    """The same for programs of asyncio."""

    _kind = AsyncJob

    def _open(self, options: Mapping[str, Any]) -> None:
        self._http = httpx.AsyncClient(**options)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        async with aclosing(self._emitted(flow)) as emitted:
            return await anext(emitted)

    async def _emitted(self, flow: Flow[T]) -> AsyncGenerator[T, None]:
        walk = Walk(flow)
        chunks: Any = None  # of the response that came last
        async with AsyncExitStack() as opened:
            while (effect := walk.effect) is not None:
                answer: Any = None
                try:
                    if isinstance(effect, Emit):
                        yield effect.value
                    elif isinstance(effect, Sleep):
                        await asyncio.sleep(effect.seconds)
                    elif isinstance(effect, Chunk):
                        answer = await anext(chunks, None)
                    else:
                        await opened.aclose()
                        request = self._http.build_request(**self._request(effect))
                        answer = await self._http.send(request, stream=True)
                        opened.push_async_callback(answer.aclose)
                        chunks = answer.aiter_bytes()
                        if not effect.stream or answer.status_code != 200:
                            await answer.aread()
                except httpx.TransportError as error:
                    walk.fail(error)
                else:
                    walk.go(answer)
