"""The Model Context Protocol at /mcp: assistants draw with tools. `mcp_tools.py` has the tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service.dependencies import CallerOf
from service.http.negotiation import refuse_encoded

router = APIRouter(include_in_schema=False)  # tools describe themselves

Serve = Callable[[Scope, Receive, Send], Awaitable[None]]


@router.post("/mcp")
async def speak_mcp(request: Request, caller: CallerOf) -> Response:
    refuse_encoded(request.headers)
    body = await request.body()  # within our limits; what is wrong with it is answered as everywhere
    return Exchange(await to_thread.run_sync(_load), body)


def _load() -> Serve:
    """Imports the protocol's library at the first request: it would double the time in which a gateway starts."""
    from service.routes.mcp_tools import serve

    return serve


class Exchange(Response):
    """The answer to one request of the protocol, which its library writes."""

    def __init__(self, serve: Serve, sent: bytes) -> None:
        super().__init__()
        self._serve, self._sent = serve, [sent]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ClientDisconnect where the client is gone before anything was answered."""
        answered = False

        async def again() -> Message:
            if self._sent:
                return {"type": "http.request", "body": self._sent.pop(), "more_body": False}
            return await receive()

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        await self._serve(scope, again, watched)
        if not answered:
            raise ClientDisconnect
