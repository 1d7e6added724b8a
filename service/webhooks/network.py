"""Connections to nobody but whom the rules allow: a name is looked up once, and what was checked is connected to.

Were the name looked up again to connect, whoever owns it could answer with another address then (DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial
from typing import Any

import httpcore
from anyio import CapacityLimiter, to_thread

from service.access.webhooks import WebhookRules

CONNECT_S = 3.0  # to each address: the next one may answer where this one is silent
LOOKUPS = 16  # at once: a name server that hangs shall not take the threads of everything else


class Forbidden(httpcore.ConnectError):
    """An address that nothing may be sent to."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Opens TCP connections to addresses that `rules` allow."""

    def __init__(self, rules: WebhookRules) -> None:
        self._rules, self._tcp, self._lookups = rules, httpcore.AnyIOBackend(), CapacityLimiter(LOOKUPS)

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None,  # noqa: ASYNC109 - the interface has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:  # fmt: skip
        """Tries the addresses in their order. Raises Forbidden if one of them is, and then tries none."""
        addresses = await self._addresses(host, port)
        for refusal in filter(None, map(self._rules.refusal, addresses)):
            raise Forbidden(refusal)
        failure: Exception = httpcore.ConnectError("its name has no address")
        for address in addresses:
            try:
                return await self._tcp.connect_tcp(address, port, CONNECT_S, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int) -> list[str]:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await to_thread.run_sync(look_up, limiter=self._lookups, abandon_on_cancel=True)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("its name is not known") from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
