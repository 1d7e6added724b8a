"""The gateway's HTTP server: uvicorn, whose stop also ends every wait for a job."""

from __future__ import annotations

import gc
import logging
import resource
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.http.connection import MAX_HEAD, Connection
from service.http.memory import return_freed_blocks
from service.settings import GatewaySettings

MAX_OPEN_FILES = 65536  # what is asked for where the hard limit is higher, or none
FILES_KEPT_FREE = 128  # of the connections: Redis, images, uploads

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Calls `leave` at the first signal to stop; uvicorn alone would wait, and cut answers off at the end."""

    def __init__(self, config: uvicorn.Config, leave: Callable[[], None]) -> None:
        super().__init__(config)
        self._leave = leave

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("listens on %s:%d", self.config.host, self.config.port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._leave()


def run(app: FastAPI, settings: GatewaySettings) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code: 1 where the server could not start."""
    Connection.headers_timeout_s = settings.headers_timeout_s
    Connection.max_connections = max(1, raise_file_limit() - FILES_KEPT_FREE)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, http=Connection, h11_max_incomplete_event_size=MAX_HEAD,
        forwarded_allow_ips=settings.trusted_proxies,
        ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=3, server_header=False,
    )  # fmt: skip
    server = Server(config, app.state.broker.leave)
    return_freed_blocks()
    gc.collect()
    gc.freeze()  # the collector need not visit what was imported: that took a twentieth of a submit's time
    with suppress(KeyboardInterrupt):
        server.run()
    return 0 if server.started else 1


def raise_file_limit() -> int:
    """Raises the limit of open files as far as allowed, and returns it. Every connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems say that they have no limit and have one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
