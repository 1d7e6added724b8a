"""What the client does, told apart from how: generators that ask for calls and pauses and emit what comes of them.

`Client` and `AsyncClient` both drive these; they differ only in where they await.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, Union
from uuid import uuid4

import httpx

from ldm_client.answers import Event, EventParser, ImageInfo, JobInfo, Model
from ldm_client.errors import ApiError, ConnectionFailed, LdmError, WaitTimeout, error_of, object_of
from ldm_client.fields import json_body

log = logging.getLogger("ldm_client")
T = TypeVar("T")

RETRIED = frozenset({429, 502, 503})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0  # between tries, where the server does not say when
POLL_S, SLOWEST_POLL_S = 0.05, 1.0  # while waiting; between them a tenth of the time waited
PAGE = 50  # jobs of one answer


@dataclass(frozen=True)
class Call:
    """Asks for a request; the answer is its response, whose body is read unless it is a `stream` with status 200."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    timeout: float | None = None  # seconds; None: the client's own


@dataclass(frozen=True)
class Sleep:
    seconds: float


class Chunk:
    """Asks for the next bytes of the stream that was opened last; the answer is None at its end."""


@dataclass(frozen=True)
class Emit(Generic[T]):
    """Gives something to who drives the flow."""

    value: T


Effect = Call | Sleep | Chunk
Flow = Generator[Union[Effect, Emit[T]], Any, None]  # noqa: UP007 - Python 3.10 cannot subscript X | Y[T]


class Walk(Generic[T]):
    """A flow on its way: `effect` is what it asks for now, None once it has ended."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.effect: Effect | Emit[T] | None = None
        self.go(None)

    def go(self, answer: Any) -> None:
        self._step(lambda: self._flow.send(answer))

    def fail(self, error: Exception) -> None:
        self._step(lambda: self._flow.throw(error))

    def _step(self, step: Callable[[], Effect | Emit[T]]) -> None:
        try:
            self.effect = step()
        except StopIteration:
            self.effect = None


class Patience:
    """Decides how long to pause after a failure, and when failures in a row have lasted too long."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._failures, self._end = seconds, 0, 0.0

    def restore(self) -> None:
        self._failures = 0

    def after(self, error: LdmError) -> Sleep:
        """The pause before the next try. Raises `error` where there shall be none."""
        now = time.monotonic()
        if self._failures == 0:
            self._end = now + self._seconds
        asked = error.retry_after if isinstance(error, ApiError) else None
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures, self._end - now)
        pause = longest * random.uniform(0.5, 1) if asked is None else max(asked, FIRST_PAUSE_S)
        if pause <= 0 or now + pause > self._end:
            raise error
        self._failures += 1
        log.warning("%s; trying again in %.1f s", error, pause)
        return Sleep(pause)


def answered(call: Call, retry_for: float) -> Generator[Effect, Any, httpx.Response]:
    """Sends `call` until the answer is a success. Raises ApiError, and ConnectionFailed after `retry_for` seconds."""
    patience = Patience(retry_for)
    while True:
        try:
            response: httpx.Response = yield call
        except httpx.TransportError as error:
            pause = patience.after(_broken(error))
        else:
            if response.is_success:
                return response
            refusal = error_of(response)
            if refusal.status not in RETRIED:
                raise refusal
            pause = patience.after(refusal)
        yield pause


def _broken(error: httpx.TransportError) -> ConnectionFailed:
    failed = ConnectionFailed(f"The connection failed: {error or type(error).__name__}")
    failed.__cause__ = error
    return failed


def made(job: JobInfo, task: str, fields: Mapping[str, Any], retry_for: float) -> Flow[Any]:
    """Makes a job; under one Idempotency-Key, so that no retry makes a second one."""
    body = {**fields, **(fields.get("extra") or {})}
    body.pop("extra", None)
    key = body.pop("idempotency_key", None) or uuid4().hex
    call = Call("POST", f"/v1/{task}", json=json_body(body), headers={"Idempotency-Key": key})
    job.raw = object_of((yield from answered(call, retry_for)))
    yield Emit(job)


def modelled(retry_for: float) -> Flow[Any]:
    """Emits what the server's live workers serve."""
    answer = yield from answered(Call("GET", "/v1/models"), retry_for)
    yield Emit([Model(raw) for raw in object_of(answer)["data"]])


def read(path: str, retry_for: float) -> Flow[str]:
    """Emits what the server answers at `path`."""
    response = yield from answered(Call("GET", path, headers={"Accept": "*/*"}), retry_for)
    yield Emit(response.text)


def listed(kind: Callable[[Any], T], status: str | None, limit: int | None, retry_for: float) -> Flow[T]:
    """Emits the jobs of all pages, up to `limit`."""
    left, query = limit, {"status": status} if status else {}
    while left is None or left > 0:
        params = {**query, "limit": PAGE if left is None else min(PAGE, left)}
        page = object_of((yield from answered(Call("GET", "/v1/jobs", params), retry_for)))
        for raw in page["data"]:
            yield Emit(kind(raw))
        left = None if left is None else left - len(page["data"])
        if not page.get("next_cursor"):
            return
        query["cursor"] = page["next_cursor"]


def loaded(image: ImageInfo, retry_for: float, use: Callable[[bytes], T]) -> Flow[T]:
    """Emits what `use` makes of the image's file."""
    response = yield from answered(Call("GET", image.path, headers={"Accept": "*/*"}), retry_for)
    yield Emit(use(response.content))


def refreshed(job: JobInfo, retry_for: float) -> Flow[Any]:
    """Reads the job again."""
    job.raw = object_of((yield from answered(Call("GET", job.path), retry_for)))
    yield Emit(job)


def cancelled(job: JobInfo, retry_for: float) -> Flow[Any]:
    """Cancels the job, or deletes the images of one that had ended."""
    response = yield from answered(Call("DELETE", job.path), retry_for)
    if response.status_code == 204:
        response = yield from answered(Call("GET", job.path), retry_for)
    job.raw = object_of(response)
    yield Emit(job)


def waited(job: JobInfo, timeout: float | None, retry_for: float) -> Flow[Any]:
    """Reads the job until it has ended: by polling, which is to the second and passes any proxy.

    Raises WaitTimeout after `timeout` seconds, JobFailed and JobCancelled.
    """
    begun = time.monotonic()
    while not job.ended:
        passed = time.monotonic() - begun
        left = float("inf") if timeout is None else timeout - passed
        if left <= 0:
            raise WaitTimeout(f"Job {job.id} has not ended in {timeout:g} s: it is {job.status}")
        yield Sleep(min(SLOWEST_POLL_S, max(POLL_S, passed / 10), left))
        call = Call("GET", job.path, timeout=None if timeout is None else max(left, SLOWEST_POLL_S))
        job.raw = object_of((yield from answered(call, min(retry_for, left))))
    job.check()
    yield Emit(job)


def followed(job: JobInfo, *, preview: bool, retry_for: float) -> Flow[Event]:
    """Emits what happens to the job, to its end; connects again where a stream breaks, after the last event."""
    call = Call("GET", f"{job.path}/events", {"preview": 1} if preview else {}, stream=True)
    parser, patience = EventParser(), Patience(retry_for)
    while True:
        seen = {"Last-Event-ID": parser.last_id} if parser.last_id else {}
        response = yield from answered(replace(call, headers={"Accept": "text/event-stream", **seen}), retry_for)
        if response.status_code == 204:  # we have seen the end
            return
        parser.restart()
        try:
            while (data := (yield Chunk())) is not None:
                patience.restore()
                for event in parser.feed(data):
                    job.hear(event)
                    yield Emit(event)
                    if event.ended:
                        return
            broken = ConnectionFailed(f"The stream of job {job.id} ended before the job")
        except httpx.TransportError as error:
            broken = _broken(error)
        yield patience.after(broken)
