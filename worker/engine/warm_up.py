"""Jobs that an engine runs before all others, so that its threads build what first calls on a GPU wait for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence

from PIL import Image

from ldm_core.card import ModelCard
from ldm_core.errors import LdmError
from ldm_core.params import GenerationParams, Task
from worker.engine.request import Event, Failed, Request
from worker.jobs import JobPayload

OWNER = "warm-up"  # pays for the device's time
STEPS = 3  # of a shape the first call is plain, the second is recorded, the third replayed (acceleration/replay.py)


class WarmUpFailed(LdmError):
    """A model cannot do one of its tasks at its native size on this device."""


def warm_up_jobs(cards: Iterable[ModelCard]) -> list[Request]:
    """A job of each task of each model at its native size; image to image is one of those of text."""
    return [job for card in cards for job in _jobs(card)]


class WarmUp:
    """Takes the place of `emit` while an engine runs these jobs, and keeps what it is told of them."""

    def __init__(self, jobs: Sequence[Request], emit: Callable[[Sequence[Event]], None]) -> None:
        self.emit = emit
        self._payloads = {job.key: job.payload for job in jobs}
        self._failed: list[Failed] = []

    @property
    def keys(self) -> KeysView[str]:
        return self._payloads.keys()

    def __call__(self, events: Sequence[Event]) -> None:
        self._failed += [event for event in events if event.key in self.keys and isinstance(event, Failed)]
        self.emit([event for event in events if event.key not in self.keys])

    def refuse_failed(self) -> None:
        """Raises WarmUpFailed for the first of the jobs that failed."""
        for event in self._failed:
            payload = self._payloads[event.key]
            doing = f"{payload.params.task} at {payload.params.width}x{payload.params.height}"
            raise WarmUpFailed(
                f"model {payload.model!r} cannot do {doing} on this device: {event.error}"
            ) from event.error


def _jobs(card: ModelCard) -> Iterator[Request]:
    for task in card.tasks:
        yield _job(card, task, _inputs(card, task))
        if task == "txt2img":
            yield _job(card, task, {"image": _grey(card.native_size)}, strength=1.0)


def _job(card: ModelCard, task: Task, inputs: dict[str, bytes], strength: float | None = None) -> Request:
    width, height = card.native_size
    params = GenerationParams(
        task=task, width=width, height=height, steps=min(STEPS, card.max_steps), seed=0, strength=strength,
        guidance_scale=card.guidance_for(task), sampler=card.default_sampler,
        class_id=0 if task == "class2img" else None, objects=() if task == "layout2img" else None,
    )  # fmt: skip
    key = f"{OWNER}:{card.id}:{task}:{strength}"
    return Request(key, JobPayload(id=key, model=card.id, params=params, owner=OWNER), encoded=inputs)


def _inputs(card: ModelCard, task: Task) -> dict[str, bytes]:
    """The images that a task needs: an image to enlarge or to fill in, a map of label 0."""
    width, height = card.native_size
    match task:
        case "superres":
            return {"image": _grey((width // card.scale, height // card.scale))}
        case "inpaint":
            return {"image": _grey(card.native_size), "mask": _grey(card.native_size, "L")}
        case "semantic2img":
            return {"image": _png(Image.new("L", card.native_size))}
    return {}


def _grey(size: tuple[int, int], mode: str = "RGB") -> bytes:
    return _png(Image.new(mode, size, "grey"))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
