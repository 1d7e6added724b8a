"""Clients as they are found in the wild: they send a request, and send it again when they were told nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.chaos.workload import Order

PATIENCE_S = 120.0
PAUSE_S = 0.1


class Refused(AssertionError):
    """An answer that no retry would cover."""


class Clients:
    """Several clients of one gateway. `accepted` maps the id of every job that was acknowledged to its order."""

    def __init__(self, url: str, *, retry_unclear: bool) -> None:
        self.accepted: dict[str, Order] = {}
        self.retries: Counter[str] = Counter()
        self.unclear: list[Order] = []  # may have made a job of which nobody was told
        self._url, self._retry_unclear = url, retry_unclear
        self._lock = threading.Lock()

    def submit_all(self, wanted: Iterable[Order], clients: int = 4, pause_s: float = 0.0) -> None:
        """Submits every order; raises Refused for an answer that is not a client's to mend."""
        source = iter(wanted)

        def client() -> None:
            with httpx.Client(base_url=self._url, timeout=30) as http:
                while (order := self._next(source)) is not None:
                    self._submit(http, order)
                    time.sleep(pause_s)

        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(client) for _ in range(clients)]:
                done.result()

    def _submit(self, http: httpx.Client, order: Order) -> None:
        """One order: again on a refused connection and on 429 and 503; on a cut one only where that is safe."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                headers = {"Idempotency-Key": order.key} if self._retry_unclear else {}
                answer = http.post(f"/v1/{order.task}", json=order.body, headers=headers)
            except httpx.ConnectError:
                self._again("refused connections")
                continue
            except httpx.TransportError:  # the request was sent, the answer never came
                self._again("cut connections")
                if self._retry_unclear:
                    continue
                with self._lock:
                    self.unclear.append(order)
                return
            if answer.status_code in {429, 503}:
                self._again(str(answer.status_code))
                continue
            if answer.status_code not in {200, 202}:
                raise Refused(f"{answer.status_code} {answer.text}")
            with self._lock:
                self.accepted[answer.json()["id"]] = order
            return
        raise Refused(f"nobody took {order.key} within {PATIENCE_S:g} s")

    def _next(self, source: Iterator[Order]) -> Order | None:
        with self._lock:
            return next(source, None)

    def _again(self, why: str) -> None:
        with self._lock:
            self.retries[why] += 1
        time.sleep(PAUSE_S)


def knows_idempotency(url: str) -> bool:
    """Whether this gateway honours Idempotency-Key, so that a client may send an unclear request again."""
    return "idempotency-key" in httpx.get(f"{url}/openapi.json", timeout=30).text.lower()
