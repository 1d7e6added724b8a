"""What the server answers, typed where it is known; everything else stands in `raw`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from ldm_client.errors import JobCancelled, JobFailed

T = TypeVar("T")
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


class Field(Generic[T]):
    """A field of an answer; `otherwise` where the answer has none, or null."""

    def __init__(self, otherwise: T) -> None:
        self._otherwise = otherwise

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, answer: Answer, owner: type) -> T:
        value: T | None = answer.raw.get(self._name)
        return self._otherwise if value is None else value


class Answer:
    """Something that the server tells; `raw` is all of it, also what this client does not know."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw: dict[str, Any] = dict(raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r:.300})"


class Model(Answer):
    """A model that the server has; sizes are in pixels."""

    id = Field("")
    tasks = Field[list[str]]([])
    default_for = Field[list[str]]([])
    samplers = Field[list[str]]([])
    schedules = Field[list[str]]([])
    native_size = Field[list[int]]([0, 0])
    size_multiple = Field(1)
    max_pixels = Field(0)


class ImageInfo(Answer):
    """What a job tells of one of its images; `path` is where its bytes are."""

    seed = Field(0)
    width = Field(0)
    height = Field(0)
    content_type = Field("")
    sha256 = Field("")
    signed_url = Field[str | None](None)  # with API keys: opens it for some minutes without one

    def __init__(self, path: str, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self.path = path


class Warn(NamedTuple):
    """Something that was asked for and not honoured."""

    code: str
    detail: str
    pointer: str


class JobInfo(Answer):
    """A job as the server told of it last."""

    id = Field("")
    task = Field[str | None](None)
    model = Field("")
    status = Field("")  # queued, running, succeeded, failed or cancelled
    progress = Field(0.0)  # 0 to 1
    step = Field(0)
    steps = Field(0)
    queue_position = Field[int | None](None)  # 1: the next one; None once it runs
    request = Field[Mapping[str, Any]]({})  # every parameter, defaults resolved
    error = Field[Mapping[str, Any] | None](None)  # why it failed, as a problem (RFC 9457)
    urls = Field[Mapping[str, str]]({})

    @property
    def path(self) -> str:
        return f"/v1/jobs/{self.id}"

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def seed(self) -> int | None:
        """Of the first image; image i has seed + i."""
        return self.request.get("seed")

    @property
    def warnings(self) -> list[Warn]:
        """What was asked for and not honoured."""
        return [Warn(w["code"], w["detail"], w.get("pointer", "")) for w in self.raw.get("warnings") or ()]

    def hear(self, event: Event) -> None:
        """Takes over what an event tells."""
        if isinstance(event, StatusEvent):
            self.raw = dict(event.raw)
        elif isinstance(event, ProgressEvent):
            self.raw |= {"step": event.step, "steps": event.steps, "progress": event.progress}

    def check(self) -> None:
        """Raises JobFailed or JobCancelled where it ended without images."""
        if self.status == "cancelled":
            raise JobCancelled(f"Job {self.id} was cancelled")
        if self.status == "failed":
            raise JobFailed(f"Job {self.id} failed", self.error or {})


class Event(Answer):
    """Something that happened to a job. An event of a name that this client does not know is just one of these."""

    def __init__(self, id: str, name: str, raw: Mapping[str, Any]) -> None:  # noqa: A002 - as the standard calls it
        super().__init__(raw)
        self.id, self.name = id, name

    @property
    def ended(self) -> bool:
        """Whether it is the job's last one."""
        return self.name in TERMINAL


class StatusEvent(Event):
    """The job has another status; `raw` is the whole job."""

    status = Field("")


class ProgressEvent(Event):
    """The job has taken a step."""

    step = Field(0)
    steps = Field(0)
    progress = Field(0.0)

    @property
    def preview(self) -> bytes | None:
        """A small JPEG of what the image is going to be; only some events have one, and only where it was asked for."""
        url = self.raw.get("preview")
        return base64.b64decode(url.partition(",")[2]) if url else None


class EventParser:
    """Server-Sent Events out of a stream's bytes. `last_id`: of the event read last."""

    def __init__(self) -> None:
        self.last_id = ""
        self.restart()

    def restart(self) -> None:
        """Forgets what a broken connection left half."""
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")  # str.splitlines would also split inside of JSON
        return [event for line in lines if (event := self._line(line.rstrip(b"\r").decode()))]

    def _line(self, line: str) -> Event | None:
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:  # a comment
            return None
        self.last_id, name = fields.get("id", self.last_id), fields.get("event", "message")
        kind = ProgressEvent if name == "progress" else StatusEvent if name in {"status", *TERMINAL} else Event
        return kind(self.last_id, name, json.loads(fields["data"]))
