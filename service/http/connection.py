"""One HTTP connection: uvicorn's, by h11, with deadlines, a bound on their number, and its refusals as problems."""

from __future__ import annotations

import asyncio
import logging
import sys
from http import HTTPStatus
from typing import cast
from uuid import uuid4

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import Problem, problem_response
from service.http.lingering import LingeringTransport

MAX_HEAD = 65536  # bytes of a request's line and headers; h11 holds it

log = logging.getLogger(__name__)


class Deadlines(H11Protocol):
    """Closes a connection whose client neither asks nor reads for `headers_timeout_s`.

    uvicorn bounds only the silence after an answer. `service/http/bounded_body.py` bounds the time of a body.
    """

    headers_timeout_s = 20.0
    _asking: asyncio.TimerHandle | None = None  # runs while no request is being answered
    _reading: asyncio.TimerHandle | None = None  # runs while the client does not take what it is sent

    def watch(self) -> None:
        """Starts or stops the time for the next request. What arrives of one does not start the time anew."""
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self._asking)
            self._asking = None
        elif self._asking is None and not self.transport.is_closing():
            self._asking = self.loop.call_later(self.headers_timeout_s, self.asked_too_slowly)

    def asked_too_slowly(self) -> None:
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._asking, self._reading)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        _cancel(self._reading)
        super().resume_writing()

    def _await_reader(self, unsent: int) -> None:
        self._reading = self.loop.call_later(self.headers_timeout_s, self._check_reader, unsent)

    def _check_reader(self, unsent_before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < unsent_before:
            self._await_reader(unsent)
        else:
            self.transport.abort()


class Connection(Deadlines):
    """Closes in two steps where the client still sends, and answers with problems to what is no request."""

    max_connections = 1

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = LingeringTransport(transport, self._client_sends)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        transport.set_write_buffer_limits(0)  # so that `pause_writing` is called for every client that does not read
        if len(self.connections) > self.max_connections:  # so that those which are open can still be answered
            transport.close()
        else:
            self.watch()

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            self._lingering.heard()
        else:
            super().data_received(data)
            self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering.forget()
        super().connection_lost(exc)

    def asked_too_slowly(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"The request's headers were not complete after {self.headers_timeout_s:g} s.")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles h11's error."""
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            self._refuse(431, f"The request's headers are longer than {MAX_HEAD} bytes.")
        else:
            self._refuse(400, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Java's client offers HTTP/2 with every request; the offer is passed over without a line in the log."""

    def _client_sends(self) -> bool:
        """Whether the client may still be sending, so that closing at once would reset the connection."""
        return self.conn.their_state in {h11.SEND_BODY, h11.ERROR} or bool(self.conn.trailing_data[0])

    def _refuse(self, status: int, detail: str) -> None:
        """Answers with a problem, like every other error, unless another answer has begun; closes the connection."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            request_id = uuid4().hex
            problem = Problem(status, detail, headers={"X-Request-ID": request_id, "Connection": "close"})
            answer, reason = problem_response(problem, "", request_id), HTTPStatus(status).phrase.encode()
            head = h11.Response(status_code=status, headers=answer.raw_headers, reason=reason)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            log.info("refused a connection with %d: %s", status, detail, extra={"request_id": request_id})
        if self.cycle is not None and not self.cycle.response_complete:  # the application learns of it now
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
