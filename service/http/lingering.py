"""A transport that closes in two steps where the client still sends.

Closing a socket with unread bytes resets the connection, and the client's kernel then drops an answer that is not read
yet. So `close` first ends our side of the stream, and drops what the client sends until its end, a silence or a limit
(RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_S = 20.0
SILENCE_S = 2.0


class LingeringTransport:
    """Wraps `transport`, and replaces `close` and `is_closing`.

    `client_sends` says whether the client may still be sending, and so how the connection is closed.
    """

    def __init__(self, transport: asyncio.Transport, client_sends: Callable[[], bool]) -> None:
        self._transport, self._client_sends = transport, client_sends
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._heard = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def lingers(self) -> bool:
        """Whether arriving data is to be dropped."""
        return bool(self._timers)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Ends our side of the stream, and the connection unless the client is still sending."""
        if self.is_closing():
            return
        if not self._client_sends():
            self._transport.close()
            return
        self._transport.resume_reading()
        self._transport.write_eof()
        self._timers = [self._loop.call_later(LINGER_S, self._transport.abort), self._silence()]

    def heard(self) -> None:
        """Notes that data arrived, and was dropped."""
        self._heard = True

    def forget(self) -> None:
        """Stops the timers of a lost connection."""
        for timer in self._timers:
            timer.cancel()

    def _silence(self) -> asyncio.TimerHandle:
        self._heard = False
        return self._loop.call_later(SILENCE_S, self._check)

    def _check(self) -> None:
        if self._heard:
            self._timers[1] = self._silence()
        else:
            self._transport.abort()
