"""Bounds the body of one request: its size, its time, and the memory that all bodies have together.

Starlette's own limit bounds the size alone, and leaves the connection of a refused body open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from service.errors import Problem
from service.http.memory import BodyBudget, HeldBody

CLOSE = {"Connection": "close"}  # for answers to a body that was not read to its end


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of the bodies of one gateway."""

    max_bytes: int
    timeout_s: float
    budget: BodyBudget


class BoundedBody:
    """Its `receive` replaces the server's, and raises Problem: 413, 408, or 503 when the budget is spent."""

    def __init__(self, scope: Scope, receive: Receive, limits: BodyLimits, answered: Callable[[], bool]) -> None:
        self._scope, self._receive, self._limits, self._answered = scope, receive, limits, answered
        self._held = HeldBody(limits.budget)
        self._seen, self._deadline, self._complete = 0, 0.0, False
        self.refusal = self._refusal_of(Headers(scope=scope))  # known before a byte of the body is read

    async def receive(self) -> Message:
        """The next part of the body; after the last one, the client's hang-up."""
        if self._complete or self._answered():
            return await self._receive()
        if self.refusal:
            raise self.refusal
        message = await self._in_time()
        size = len(message.get("body", b""))
        self._seen += size
        if self._seen > self._limits.max_bytes:
            raise self._too_large()
        self._held.add(size, self._key())
        self._complete = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Gives back to the budget what this body held. To be called once it is out of memory."""
        self._held.release()

    async def _in_time(self) -> Message:
        self._deadline = self._deadline or asyncio.get_running_loop().time() + self._limits.timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            detail = f"The body was not complete after {self._limits.timeout_s:g} s."
            raise Problem(408, detail, headers=CLOSE) from None

    def _key(self) -> str:
        caller = self._scope["state"].get("caller")
        return caller.name if caller else ""

    def _refusal_of(self, headers: Headers) -> Problem | None:
        declared = headers.get("content-length", "0")  # at most 20 digits: h11 refuses everything else
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may see another end of the body
            return Problem(400, "Send either Content-Length or Transfer-Encoding.", headers=CLOSE)
        return self._too_large() if int(declared) > self._limits.max_bytes else None

    def _too_large(self) -> Problem:
        return Problem(413, f"The body is larger than {self._limits.max_bytes} bytes.", headers=CLOSE)
