"""One attempt to tell a webhook something: a POST on a connection of its own, bounded in time and in what is read."""

from __future__ import annotations

import asyncio
import ssl
from functools import cached_property
from urllib.parse import urlsplit

import httpcore

from service.access.webhooks import WebhookRules
from service.webhooks.message import Message
from service.webhooks.network import CheckedNetwork

ATTEMPT_S = 10.0  # from looking up the name to the end of the answer
MOST_BYTES = 4096  # of the answer's body: nobody looks at it
MOST_CHARS = 200  # of what went wrong, for the log
GONE = 410


class NotTaken(Exception):
    """The receiver did not take it, in words for the log. `for_good`: it wants no more of it."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Sender:
    """Sends to whom `rules` allow, past every proxy, and follows no redirect."""

    def __init__(self, rules: WebhookRules) -> None:
        self._rules, self._network = rules, CheckedNetwork(rules)

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # of the authorities that OpenSSL finds, or SSL_CERT_FILE names

    async def send(self, url: str, message: Message) -> None:
        """Raises NotTaken where the answer is not 2xx, and InvalidParameter where the rules allow the URL no more."""
        self._rules.checked(url)
        try:
            async with asyncio.timeout(ATTEMPT_S):
                status = await self._post(url, message)
        except TimeoutError:
            raise NotTaken(f"no whole answer within {ATTEMPT_S:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise NotTaken((str(error) or type(error).__name__)[:MOST_CHARS]) from None
        if not 200 <= status < 300:
            raise NotTaken(f"it answered {status}", for_good=status == GONE)

    async def _post(self, url: str, message: Message) -> int:
        asked = {"host": urlsplit(url).netloc, "user-agent": "ldm-service", "accept": "*/*", "connection": "close"}
        given = {**asked, "content-length": str(len(message.body)), **message.headers}
        headers: list[tuple[bytes | str, bytes | str]] = [*given.items()]
        origin = httpcore.URL(url).origin
        async with httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._trusted, network_backend=self._network
        ) as connection:
            request = httpcore.Request("POST", url, headers=headers, content=message.body)
            answer = await connection.handle_async_request(request)
            try:
                read = 0
                async for part in answer.aiter_stream():
                    read += len(part)
                    if read >= MOST_BYTES:
                        break
            finally:
                await answer.aclose()
        return answer.status
