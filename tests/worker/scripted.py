"""A worker process whose engine follows a script instead of denoising: everything else in it is the real thing.

A job's prompt is its script: "slow" takes 20 ms a step, "hang" never ends its first step, "break" fails, "flaky"
fails in a way worth another try, "crash" and "eats all memory" end the process. Started by `tests.worker.processes`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from ldm_core.card import ModelCard
from ldm_core.errors import JobError
from worker.engine.request import Cancelled, EncodedImage, Event, Failed, Finished, Progress, Request
from worker.leasing import admission
from worker.leasing.batch_worker import BatchWorker
from worker.logs import set_up_logging
from worker.metrics import WorkerMetrics
from worker.settings import WorkerSettings, read_settings
from worker.store.blobs import open_blobs
from worker.store.connection import connect
from worker.store.records import payload_of

CARD = ModelCard(
    id="toy", tasks=("txt2img", "inpaint"), native_size=(8, 8), size_multiple=8, max_pixels=4096,
    default_steps=4, default_guidance_scale=1.0, default_for=("txt2img",),
)  # fmt: skip


@dataclass
class Row:
    request: Request
    step: int = 0
    cancelled: bool = field(default=False)


class ScriptedEngine:
    """The engine's interface over a list of counters."""

    def __init__(self, emit: Callable[[Sequence[Event]], None], max_rows: int) -> None:
        self._emit, self._max_rows = emit, max_rows
        self._rows: dict[str, Row] = {}
        self._condition = threading.Condition()
        self._stopped = False
        self.ready = threading.Event()
        self.last_step_at = time.monotonic()

    def submit(self, request: Request) -> None:
        with self._condition:
            self._rows[request.key] = Row(request)
            self._condition.notify()

    def request_preview(self, key: str) -> None:
        """Makes no previews."""

    def cancel(self, key: str) -> None:
        with self._condition:
            if key in self._rows:
                self._rows[key].cancelled = True

    def free_rows(self) -> int:
        running = [row.request.params for row in self._rows.copy().values()]
        return self._max_rows - sum(params.n * params.rows_per_image for params in running)

    def unfinished(self) -> list[str]:
        return list(self._rows)

    def run(self) -> None:
        self.ready.set()
        while not self._stopped:
            with self._condition:
                if not self._rows:
                    self._condition.wait(0.05)
                rows = list(self._rows.values())
            if rows:
                self._step(rows)

    def stop(self, drain_s: float) -> list[str]:
        self._stopped = True
        return list(self._rows)

    def save(self) -> list[Event]:
        return []

    def _step(self, rows: list[Row]) -> None:
        scripts = {row.request.params.prompt for row in rows}
        if "crash" in scripts:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "eats all memory" in scripts:  # and the system ends the process, which looks like any kill
            os.kill(os.getpid(), signal.SIGKILL)
        while "hang" in scripts:
            time.sleep(1)
        time.sleep(0.02 if "slow" in scripts else 0.001)
        events = [event for row in rows if (event := self._advance(row)) is not None]
        self.last_step_at = time.monotonic()
        for event in events:
            if not isinstance(event, Progress):
                self._rows.pop(event.key)
        self._emit(events)

    def _advance(self, row: Row) -> Event:
        key, params = row.request.key, row.request.params
        row.step += 1
        if row.cancelled:
            return Cancelled(key)
        if params.prompt in {"break", "flaky"}:
            return Failed(key, JobError(f"told to {params.prompt}"), retryable=params.prompt == "flaky")
        if row.step < params.steps:
            return Progress(key, row.step)
        data = row.request.encoded.get("image", b"") + f"{params.prompt}:{params.seed}".encode()
        images = tuple(EncodedImage(data, params.image_seed(i), 8, 8) for i in range(params.n))
        return Finished(key, images)


def main() -> None:
    settings = read_settings(WorkerSettings)
    set_up_logging("text")
    metrics = WorkerMetrics(CollectorRegistry())
    blobs = open_blobs(settings.redis_url, settings.data_dir)
    if os.environ.get("LDM_TEST_NEWER"):  # reads jobs that the present version does not
        admission.payload_to_run = payload_of  # type: ignore[attr-defined]
        admission.abilities = lambda _: "newer"  # type: ignore[attr-defined]
    digest, _, dtype = os.environ.get("LDM_TEST_WEIGHTS", "").partition(" ")
    worker = BatchWorker(connect(settings.redis_url), blobs, {"toy": CARD}, metrics, settings, {"toy": (digest, dtype)})
    worker.serve(ScriptedEngine(worker.emit, settings.max_rows))


if __name__ == "__main__":
    main()
