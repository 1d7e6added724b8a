"""What the engine's tests share: an engine over tiny models whose events and batches are kept."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ldm_core.params import GenerationParams
from tests.tiny import tiny_models
from worker.engine.engine import Engine
from worker.engine.request import Event, Finished, Request
from worker.jobs import JobPayload

ROWS = {"scenes": 2, "scenes-superres": 1}
TXT2IMG = GenerationParams(
    task="txt2img", width=64, height=64, steps=3, guidance_scale=3.0, seed=11, prompt="a red house by the sea"
)


class Kept:
    """An engine, driven by hand, and everything that it said."""

    def __init__(self, max_rows: int = 64, **options: Any) -> None:
        self.events: list[Event] = []
        self.batches: list[tuple[str, int, int]] = []  # model, rows, padding
        self.stages: dict[str, int] = defaultdict(int)
        self.running: dict[str, int] = {}
        options = {"step_s": math.inf, **options}  # else who is in a step depends on how fast this machine is
        self.engine = Engine(tiny_models(), rows=ROWS, max_rows=max_rows, emit=self.emit, metrics=self, **options)

    def emit(self, events: Sequence[Event]) -> None:
        self.events += events

    def step(self, model: str, rows: int, padded: int, seconds: float) -> None:
        self.batches.append((model, rows, padded))

    def stage(self, name: str, seconds: float) -> None:
        self.stages[name] += 1

    def rows_running(self, model: str, n: int) -> None:
        self.running[model] = n

    def submit(self, request: Request) -> None:
        """Submits a copy: a request has the state of one engine."""
        self.engine.submit(replace(request))

    def run_all(self) -> None:
        """Steps and finishes until nothing is left to do, all on this thread."""
        while self.engine.step():
            self.finish()
        self.finish()

    def finish(self) -> None:
        finisher = self.engine._finisher
        while not finisher._queue.empty():
            run = finisher._queue.get()
            assert run is not None
            finisher.do(run)

    def outcome(self, key: str) -> Event:
        """The one terminal event of a job."""
        (event,) = [e for e in self.events if e.key == key and type(e).__name__ != "Progress"]
        return event

    def images(self, key: str) -> list[bytes]:
        event = self.outcome(key)
        assert isinstance(event, Finished), event
        return [image.data for image in event.images]


def job(key: str = "job", **changes: Any) -> Request:
    """A text-to-image job; its parameters and the fields of its payload and of the request may be changed."""
    of_payload, of_request = (
        {name: changes.pop(name) for name in list(changes) if name in kind.__slots__} for kind in (JobPayload, Request)
    )
    payload = JobPayload(**{"id": key, "model": "scenes", "params": replace(TXT2IMG, **changes), **of_payload})
    return Request(key, payload, **of_request)


def inpaint(key: str = "inpaint", **changes: Any) -> Request:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 16, 40, 64))
    return job(key, task="inpaint", encoded={"image": png(picture(64)), "mask": png(mask)}, **changes)


def superres(key: str = "superres", **changes: Any) -> Request:
    defaults = {"task": "superres", "guidance_scale": 1.0, "prompt": "", **changes}
    return job(key, model="scenes-superres", encoded={"image": png(picture(16))}, **defaults)


def picture(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
