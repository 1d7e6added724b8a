"""What both clients have: their settings, a method for each task, and how a call becomes a request."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx

from ldm_client import flows
from ldm_client.fields import Fields, ImageInput, PromptFields, SizedFields, StrengthFields, TextFields, Thing
from ldm_client.jobs import Driver

if TYPE_CHECKING:
    from typing_extensions import Unpack

Made = TypeVar("Made")
Jobs = TypeVar("Jobs")
Models = TypeVar("Models")
Text = TypeVar("Text")
VERSION = "0.1.0"
SILENCE_S = 45.0  # of a stream of events, on which the server says something every 15 seconds


class AnyClient(Driver, Generic[Made, Jobs, Models, Text]):
    """A connection to an ldm-service.

    `server` and `api_key` default to LDM_SERVER and LDM_API_KEY; `timeout` is one request's, in seconds; failures that
    may pass are retried for `retry_for` seconds in a row; other `options` are those of httpx's clients.
    """

    _kind: Callable[[Any, Any], Any]  # of its jobs

    def __init__(
        self,
        server: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retry_for: float = 30.0,
        **options: Any,
    ) -> None:
        self.server = (server or os.environ.get("LDM_SERVER") or "http://localhost:8000").rstrip("/")
        if not self.server.startswith(("http://", "https://")):
            raise ValueError(f"server must begin with http:// or https://, got {self.server!r}")
        self.timeout, self.retry_for = timeout, retry_for
        key = api_key if api_key is not None else os.environ.get("LDM_API_KEY", "")
        headers = {"User-Agent": f"ldm-client/{VERSION}", "Accept": "application/json"}
        self._open({"headers": headers | ({"Authorization": f"Bearer {key}"} if key else {}), **options})

    @abstractmethod
    def _open(self, options: Mapping[str, Any]) -> None: ...

    def create(self, task: str, fields: Mapping[str, Any]) -> Made:
        """Makes a job of any task, also of one that has no method here.

        `idempotency_key` among the fields lets a program that was started again find the job that it had made. Raises
        ApiError and ConnectionFailed.
        """
        return self._run(flows.made(self._kind(self, {}), task, fields, self.retry_for))

    def txt2img(self, prompt: str, **fields: Unpack[TextFields]) -> Made:
        """A prompt to an image."""
        return self.create("txt2img", {**fields, "prompt": prompt})

    def img2img(self, image: ImageInput, prompt: str, **fields: Unpack[StrengthFields]) -> Made:
        """An image and a prompt to another image."""
        return self.create("txt2img", {**fields, "image": image, "prompt": prompt})

    def inpaint(self, image: ImageInput, mask: ImageInput | None = None, **fields: Unpack[PromptFields]) -> Made:
        """Repaints `image` where `mask` is white, without a mask where `image` is transparent."""
        return self.create("inpaint", {**fields, "image": image, "mask": mask})

    def superres(self, image: ImageInput, **fields: Unpack[PromptFields]) -> Made:
        """A small image to a large one."""
        return self.create("superres", {**fields, "image": image})

    def class2img(self, label: int | str, **fields: Unpack[SizedFields]) -> Made:
        """A class, by its id or its name, to an image."""
        return self.create("class2img", {**fields, "class_name" if isinstance(label, str) else "class_id": label})

    def semantic2img(self, semantic_map: ImageInput, **fields: Unpack[Fields]) -> Made:
        """A semantic map, whose values are ids of labels, to an image."""
        return self.create("semantic2img", {**fields, "map": semantic_map})

    def layout2img(self, objects: Sequence[Thing], **fields: Unpack[SizedFields]) -> Made:
        """Things and their places to an image."""
        return self.create("layout2img", {**fields, "objects": list(objects)})

    def unconditional(self, **fields: Unpack[SizedFields]) -> Made:
        """An image of what the model was trained on."""
        return self.create("unconditional", fields)

    def job(self, job_id: str) -> Made:
        """The job of that id. Raises NotFound."""
        return self._run(flows.refreshed(self._kind(self, {"id": job_id}), self.retry_for))

    def jobs(self, status: str | None = None, limit: int | None = None) -> Jobs:
        """The caller's own jobs, newest first; all that the server remembers unless there is a `limit`."""
        listed = flows.listed(lambda raw: self._kind(self, raw), status, limit, self.retry_for)
        return self._emitted(listed)

    def models(self) -> Models:
        """What the server's live workers serve."""
        return self._run(flows.modelled(self.retry_for))

    def read(self, path: str) -> Text:
        """The text at any other path of the server, such as /readyz. Raises ApiError."""
        return self._run(flows.read(path, self.retry_for))

    def _request(self, call: flows.Call) -> dict[str, Any]:
        """What httpx shall send for `call`."""
        seconds = call.timeout or self.timeout
        timeout = httpx.Timeout(seconds, read=SILENCE_S if call.stream else seconds)
        return {
            "method": call.method, "url": self.server + call.path, "params": dict(call.params), "json": call.json,
            "headers": dict(call.headers), "timeout": timeout,
        }  # fmt: skip
