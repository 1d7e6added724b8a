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
from worker.engine.engine import Engine, EngineJob, Event, Finished

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

    def outcome(self, job_id: str) -> Event:
        """The one terminal event of a job."""
        (event,) = [e for e in self.events if e.job_id == job_id and type(e).__name__ != "Progress"]
        return event

    def images(self, job_id: str) -> list[bytes]:
        event = self.outcome(job_id)
        assert isinstance(event, Finished), event
        return [image.data for image in event.images]


def job(job_id: str = "job", **changes: Any) -> EngineJob:
    """A text-to-image job; parameters and job fields may be changed."""
    fields = {name: changes.pop(name) for name in list(changes) if name in EngineJob.__slots__}
    return EngineJob(**{"id": job_id, "model": "scenes", "params": replace(TXT2IMG, **changes), **fields})


def inpaint(job_id: str = "inpaint", **changes: Any) -> EngineJob:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 16, 40, 64))
    return job(job_id, task="inpaint", pictures={"image": png(picture(64)), "mask": png(mask)}, **changes)


def superres(job_id: str = "superres", **changes: Any) -> EngineJob:
    defaults = {"task": "superres", "guidance_scale": 1.0, "prompt": "", **changes}
    return job(job_id, model="scenes-superres", pictures={"image": png(picture(16))}, **defaults)


def picture(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
