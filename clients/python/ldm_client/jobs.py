"""Jobs and their images: what programs that wait and programs that await can do with them."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ldm_client import flows
from ldm_client.answers import Event, ImageInfo, JobInfo
from ldm_client.flows import Flow

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Itself = TypeVar("Itself")
Events = TypeVar("Events")
Bytes = TypeVar("Bytes")
Nothing = TypeVar("Nothing")
Pillow = TypeVar("Pillow")


class Driver(ABC):
    """Drives flows; `retry_for` is how long, in seconds, failures in a row are retried."""

    retry_for: float

    @abstractmethod
    def _run(self, flow: Flow[Any]) -> Any:
        """What the flow emits first, or an awaitable of that."""

    @abstractmethod
    def _emitted(self, flow: Flow[Any]) -> Any:
        """A generator of all that the flow emits."""


class AnyImage(ImageInfo, Generic[Bytes, Nothing, Pillow]):
    """A finished image of a job. Its methods raise NotFound, or ApiError 410, where the server has it no more."""

    def __init__(self, driver: Driver, path: str, raw: Mapping[str, Any]) -> None:
        super().__init__(path, raw)
        self._driver = driver

    def bytes(self) -> Bytes:
        """Its file."""
        return self._driver._run(flows.loaded(self, self._driver.retry_for, lambda data: data))

    def save(self, path: str | os.PathLike[str]) -> Nothing:
        """Writes its file to `path`."""
        return self._driver._run(flows.loaded(self, self._driver.retry_for, Path(path).write_bytes))

    def pil(self) -> Pillow:
        """The image for Pillow, which has to be installed."""
        return self._driver._run(flows.loaded(self, self._driver.retry_for, _opened))


def _opened(data: bytes) -> PillowImage:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.load()
    return image


class Image(AnyImage[bytes, int, "PillowImage"]):
    """An image of a `Job`."""


class AsyncImage(AnyImage[Awaitable[bytes], Awaitable[int], "Awaitable[PillowImage]"]):
    """An image of an `AsyncJob`."""


class AnyJob(JobInfo, Generic[Itself, Events]):
    """A job that is or was on the server; it knows what it was told last."""

    def __init__(self, driver: Driver, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self._driver = driver

    def _images(self) -> list[tuple[Driver, str, dict[str, Any]]]:
        given = enumerate(self.raw.get("images") or ())
        return [(self._driver, f"{self.path}/images/{i}", raw) for i, raw in given]

    def wait(self, timeout: float | None = None) -> Itself:
        """Returns when it has succeeded. Raises JobFailed, JobCancelled, and WaitTimeout after `timeout` seconds."""
        return self._driver._run(flows.waited(self, timeout, self._driver.retry_for))

    def events(self, *, preview: bool = False) -> Events:
        """What happens to it, from its present state to its end; a broken connection is made again.

        With `preview`, some events have a small JPEG. Raises ApiError and ConnectionFailed, nothing where it fails.
        """
        flow = flows.followed(self, preview=preview, retry_for=self._driver.retry_for)
        return self._driver._emitted(flow)

    def cancel(self) -> Itself:
        """Ends it within a step. The images of one that had ended are deleted."""
        return self._driver._run(flows.cancelled(self, self._driver.retry_for))

    def refresh(self) -> Itself:
        """Asks the server how it is. Raises NotFound where it has expired."""
        return self._driver._run(flows.refreshed(self, self._driver.retry_for))


class Job(AnyJob["Job", Generator[Event, None, None]]):
    """A job of a `Client`."""

    @property
    def images(self) -> list[Image]:
        """Empty until it has succeeded."""
        return [Image(*given) for given in self._images()]


class AsyncJob(AnyJob["Awaitable[AsyncJob]", AsyncGenerator[Event, None]]):
    """A job of an `AsyncClient`: its methods are awaited."""

    @property
    def images(self) -> list[AsyncImage]:
        """Empty until it has succeeded."""
        return [AsyncImage(*given) for given in self._images()]
