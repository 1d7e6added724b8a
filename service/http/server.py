"""The gateway's HTTP server: uvicorn, with an end to connections that never say what they want."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import resource
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.leaving import Server
from service.http.lingering import LingeringTransport
from service.http.memory import return_freed_blocks
from service.settings import GatewaySettings

MAX_OPEN_FILES = 65536  # what is asked for where the hard limit is higher, or none
MAX_HEAD = 65536  # bytes of a request's headers, but for those that come at one go
FILES_KEPT_FREE = 128  # of the connections: Redis, images, uploads

ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")  # a target as proxies get it: scheme and authority

log = logging.getLogger(__name__)


def run(app: FastAPI, settings: GatewaySettings) -> int:
    """Serves until SIGTERM or SIGINT. The exit code: 1 where it could not even begin."""
    Connection.headers_timeout_s = settings.headers_timeout_s
    Connection.most = max(1, raise_file_limit() - FILES_KEPT_FREE)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, http=Connection, ws="none", log_config=None, access_log=False,
        timeout_graceful_shutdown=3, server_header=False,
    )  # fmt: skip
    server = Server(config, app.state.broker.leave)
    return_freed_blocks()
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it again and again took a twentieth of a submit's time
    with suppress(KeyboardInterrupt):
        server.run()
    return 0 if server.started else 1


def raise_file_limit() -> int:
    """Takes as many open files as this process may have; how many those are. A connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems say that they have no limit and have one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


class Connection(HttpToolsProtocol):
    """One connection. Its next request's headers have to be complete in time, however steadily they trickle in.

    And before they are too many: httptools, which takes a sixth off a submit's time against h11, has no limit.

    Likewise, in that time, a client has to take some of what it is sent. uvicorn bounds only the silence after an
    answer; what comes after the headers is the envelope's to bound (`service/http/middleware.py`).
    """

    most = MAX_OPEN_FILES - FILES_KEPT_FREE
    headers_timeout_s = 20.0
    _in_head = False  # whether a request has begun and its headers are not complete
    _head = 0  # bytes received since a request began that are not of a body
    _answering: RequestResponseCycle | None = None  # `cycle` is that of the last request, which may wait for its turn
    _deadline: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = LingeringTransport(transport)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        transport.set_write_buffer_limits(0)  # so that we hear of every client that does not read
        if len(self.connections) > self.most:  # so that those which are open can still be answered
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            self._lingering.heard()
            return
        self._unset_keepalive_if_required()
        self._head += len(data)
        try:
            self._feed(data)
        except HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")
        if self._head > MAX_HEAD:
            self._refuse(431, f"The request's headers are longer than {MAX_HEAD} bytes.")
        self._watch()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                data = b""
            except HttpParserUpgrade as offer:  # as Java's client makes with every request; the parser drops its body
                version = self.parser.get_http_version().encode()
                lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
                lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
                self.parser = HttpRequestParser(self)
                data = b"\r\n".join([*lines, b"", data[offer.args[0] :]])

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and not behind a body
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        method, is_current = self.parser.get_method(), self.parser.get_http_version() == "1.1"
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (is_current and not hosts) or method == b"CONNECT":
            raise ValueError("not one Host, or no server but a proxy is wanted")  # what a callback raises is a 400
        if hosts and (target := ABSOLUTE.match(self.url)) and target[1].lower() != hosts[0].strip().lower():
            raise ValueError("the request's target and its Host differ")
        if not self.parser.should_upgrade():  # else it comes again, without that
            self._in_head, self._head = False, 0
            self._lingering.client_sends = True
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._lingering.client_sends = False
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering.forget()
        self._unwatch()
        self._stop_reading_clock()
        self._stop_answering()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_reading_clock()
        super().resume_writing()

    def _watch(self) -> None:
        """The time runs while no request is being answered; what is received does not start it anew."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.headers_timeout_s, self._time_is_up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _await_reader(self, unsent: int) -> None:
        self._reading = self.loop.call_later(self.headers_timeout_s, self._check_reader, unsent)

    def _check_reader(self, unsent_before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent < unsent_before:
            self._await_reader(unsent)
        else:
            self.transport.abort()

    def _stop_reading_clock(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _time_is_up(self) -> None:
        self._deadline = None
        if self._in_head:
            self._refuse(408, f"The request's headers were not complete after {self.headers_timeout_s:g} s.")
        else:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _stop_answering(self) -> None:
        """What the application still has to say goes nowhere, and it hears of that."""
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _refuse(self, status: int, detail: str) -> None:
        """Not HTTP, or too much of it, or too slow: a problem like every other error."""
        if self.transport.is_closing():
            return
        under_way = self._answering
        if under_way is not None and not under_way.more_body and not under_way.response_started:
            self.pipeline.clear()  # that one is in order, and has its answer first
            under_way.keep_alive = False
            return
        if under_way is None or under_way.response_complete or not under_way.response_started:
            title, request_id = HTTPStatus(status).phrase, uuid4().hex
            problem: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
            body = json.dumps(problem | {"instance": "", "request_id": request_id})
            head = (
                f"HTTP/1.1 {status} {title}", "Content-Type: application/problem+json",
                f"Content-Length: {len(body)}", f"X-Request-ID: {request_id}", "Connection: close",
            )  # fmt: skip
            self.transport.write("\r\n".join([*head, "", body]).encode())
            log.info("refused a connection with %d: %s", status, detail, extra={"request_id": request_id})
        self._stop_answering()
        self._lingering.client_sends = True  # who knows what
        self.transport.close()
