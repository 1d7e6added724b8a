"""Does step-level batching pay? The same jobs through the same engine, all at once and one after the other; and how
long a short job waits that comes while 16 long ones run.

Every job of the seeded workload differs in task, steps, guidance, η or seed, so nothing but batching by step could join
them. On a GPU more rows per call cost little until the arithmetic units are full; on a CPU a few rows fill them, and
the best to hope for is to lose nothing. Prints how many rows the steps had, both times and their ratio, and for the
short jobs the steps of the device that ended from their arrival to their own first; the last line is JSON.

    python -m benchmarks.batching [--models DIR ...] [--jobs 64] [--device cuda]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image

from ldm_core.card import ModelCard
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams, Task
from worker.engine.engine import Engine
from worker.engine.request import Event, Failed, Finished, Progress, Request
from worker.engine.run_in_thread import run_in_thread
from worker.jobs import JobPayload
from worker.vital import start_vital

BUILTIN = Path(__file__).parents[1] / "ldm_core/builtin"
PROMPTS = ("a red house by the sea at sunset", "a pine in the snow at night", "a blue boat, mountains behind", "")


class Metrics:
    """The engine's metrics hooks, of which only `step` counts here."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.histogram: Counter[int] = Counter()
        self.computed = self.padded = self.steps = 0

    def step(self, model: str, rows: int, padded: int, seconds: float) -> None:
        self.steps += 1
        self.histogram[rows] += 1
        self.computed += rows + padded
        self.padded += padded

    def stage(self, name: str, seconds: float) -> None: ...

    def rows_running(self, model: str, n: int) -> None: ...


class Bench:
    """One engine on its own thread, which ends with a `with` block, and a way to wait for outcomes."""

    def __init__(self, models: dict[str, LatentDiffusion], rows: dict[str, int], max_rows: int) -> None:
        self.metrics = Metrics()
        self.images: dict[str, bytes] = {}  # by job, its first one
        self._left: set[str] = set()
        self._begun: dict[str, int] = {}  # by job: the steps that the device had done after the job's first
        self._ended = threading.Condition()
        self._engine = Engine(models, rows=rows, max_rows=max_rows, emit=self._hear, metrics=self.metrics)
        self._thread = start_vital("device", self._engine.run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop(0)
        self._thread.join()

    def time_of(self, jobs: Sequence[Request], together: bool) -> float:
        """Seconds until all of them are finished."""
        started = time.perf_counter()
        for group in [jobs] if together else [[job] for job in jobs]:
            with self._ended:
                self._left = {job.key for job in group}
                for job in group:
                    self._engine.submit(replace(job))
                self._ended.wait_for(lambda: not self._left)
        return time.perf_counter() - started

    def steps_until_begun(self, long: Sequence[Request], short: Sequence[Request]) -> list[int]:
        """For each short job, in turn: steps of the device from its arrival to its own first, that one included."""
        with self._ended:
            self._left, self._begun = {job.key for job in (*long, *short)}, {}
            for job in long:
                self._engine.submit(replace(job))
            self._ended.wait_for(lambda: len(self._begun) == len(long))
            waited = []
            for job in short:
                before = self.metrics.steps
                self._engine.submit(replace(job))
                self._ended.wait_for(lambda job=job: job.key in self._begun)  # type: ignore[misc]
                waited.append(self._begun[job.key] - before)
            assert {job.key for job in long} <= self._left, "the long jobs were too short"
            self._ended.wait_for(lambda: not self._left)
        return waited

    def _hear(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Progress) and event.key not in self._begun:
                with self._ended:
                    self._begun[event.key] = self.metrics.steps
                    self._ended.notify_all()
            if isinstance(event, Finished):
                with self._ended:
                    self.images[event.key] = event.images[0].data
                    self._left.discard(event.key)
                    self._ended.notify_all()


def workload(models: dict[str, LatentDiffusion], count: int) -> list[Request]:
    """`count` jobs over all tasks that the models do, seeded."""
    rng = random.Random(0)
    kinds = [(model, task) for model in models.values() for task in model.card.tasks]
    return [_job(f"{i}", *kinds[i % len(kinds)], rng) for i in range(count)]


def _job(key: str, model: LatentDiffusion, task: Task, rng: random.Random) -> Request:
    card = model.card
    width, height = card.native_size
    params = GenerationParams(
        task=task,
        width=width,
        height=height,
        steps=rng.randint(max(1, card.default_steps // 2), card.default_steps),
        guidance_scale=rng.choice([1.0, 4.0, 7.5]) if card.default_guidance_scale > 1 else 1.0,
        seed=rng.randrange(2**32),
        prompt=rng.choice(PROMPTS),
        eta=rng.choice([0.0, 0.0, 1.0]),
    )
    return Request(key, JobPayload(id=key, model=card.id, params=params), encoded=inputs_of(card, task))


def inputs_of(card: ModelCard, task: Task) -> dict[str, bytes]:
    """The images that a job of the native size brings: noise, and a mask over its left half."""
    if task == "txt2img":
        return {}
    width, height = card.native_size
    image = Image.effect_noise((width // card.scale, height // card.scale), 80).convert("RGB")
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return {"image": _png(image), "mask": _png(mask)}


def late_arrivals(model: LatentDiffusion) -> tuple[list[Request], list[Request]]:
    """16 jobs of 40 steps, and 8 of 5 that come while those run."""
    rng = random.Random(1)
    jobs = [_job(f"late {i}", model, model.card.tasks[0], rng) for i in range(24)]
    sized = [
        replace(job, payload=replace(job.payload, params=replace(job.params, steps=40 if i < 16 else 5)))
        for i, job in enumerate(jobs)
    ]
    return sized[:16], sized[16:]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", type=Path, default=sorted(BUILTIN.glob("*/")))
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, help="rows of a U-Net call; the worker's default otherwise")
    parser.add_argument("--max-rows", type=int, default=64)
    args = parser.parse_args()
    dtype = torch.float16 if args.device == "cuda" else torch.float32
    shared: dict[str, torch.nn.Module] = {}
    directories = [path for path in args.models if (path / "model_index.json").exists()]
    models = run_in_thread(lambda: {path.name: load_model(path, args.device, dtype, shared) for path in directories})
    rows = {name: args.rows or model.default_rows() for name, model in models.items()}
    bench = Bench(models, rows, args.max_rows)
    jobs = workload(models, args.jobs)
    bench.time_of(jobs[:8], together=True)  # warm-up
    bench.metrics.clear()
    together = [bench.time_of(jobs, together=True)]
    seen = dict(sorted(bench.metrics.histogram.items()))
    print(f"rows in a step (of at most {args.max_rows}), and how many steps had them:")
    for rows_in_step, steps in seen.items():
        print(f"  {rows_in_step:4d}  {steps:5d}  {'#' * math.ceil(40 * steps / max(seen.values()))}")
    padding = bench.metrics.padded / bench.metrics.computed
    apart = [bench.time_of(jobs, together=False)]
    # a second round in the other order, so that a machine that slows down meanwhile slows both
    apart.append(bench.time_of(jobs, together=False))
    together.append(bench.time_of(jobs, together=True))
    ratio = sum(together) / sum(apart)
    print(f"{len(jobs)} jobs, {args.device}, rows per call {rows}, {padding:.1%} of the rows were padding")
    print(f"all at once {together} s, one after the other {apart} s, ratio {ratio:.3f}")
    begun = bench.steps_until_begun(*late_arrivals(next(iter(models.values()))))
    print(f"8 short jobs that come while 16 long ones run: their first step is the device's number {begun} from then")
    result = {"jobs": len(jobs), "device": args.device, "rows": rows, "together_s": together, "apart_s": apart}
    print(json.dumps({**result, "ratio": ratio, "padding": padding, "histogram": seen, "late_begin": begun}))


if __name__ == "__main__":
    main()
