"""Step-level continuous batching: every denoising step batches all images that run at that moment.

`step()` is admit → begin → one U-Net pass over all rows → retire → finish. One thread owns the device and calls it;
others submit, cancel and request previews. Events leave through `emit`, which must be quick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from ldm_core.device import steps_first
from ldm_core.device_errors import raise_if_lost
from ldm_core.errors import DeadlineExceeded, LdmError
from ldm_core.model import LatentDiffusion
from worker.engine.encode import PLAIN, Encoder
from worker.engine.engine_metrics import EngineMetrics
from worker.engine.finisher import Finisher, Result
from worker.engine.request import (
    Cancelled,
    EncodedImage,
    Event,
    Failed,
    Finished,
    ImageRun,
    Preview,
    Progress,
    Request,
    Saved,
)
from worker.engine.runner import Runner
from worker.engine.scheduler import STEP_S, Scheduler
from worker.engine.warm_up import WarmUp
from worker.vital import start_vital

BEGIN_PER_STEP = 4  # images: encoding the inputs of many new jobs must not delay the steps of running ones
FINISH_S = 1800.0  # decoding an image of megapixels on a CPU takes minutes
IDLE_S = 0.2  # how often an idle engine notes progress, so that the watchdog sees no hang


class Engine:
    """Runs jobs of all `models` on one device, up to `max_rows` U-Net rows at once."""

    def __init__(
        self,
        models: Mapping[str, LatentDiffusion],
        *,
        rows: Mapping[str, int],
        max_rows: int,
        emit: Callable[[Sequence[Event]], None],
        metrics: EngineMetrics,
        encoder: Encoder = PLAIN,
        checkpoint_s: float = 5.0,
        step_s: float = STEP_S,
        warm_up: Sequence[Request] = (),
    ) -> None:
        """`warm_up` are jobs that `run` does first and of which `emit` is told nothing."""
        self._models, self._emit, self._metrics = models, emit, metrics
        self._device = next(iter(models.values())).device
        self._warm_up_jobs = warm_up
        self._scheduler = Scheduler(max_rows, rows, step_s)
        self._runner = Runner(models, rows)
        self._finisher = Finisher(models, self._finished, self._show, metrics.stage, encoder, self._note_progress)
        self._checkpoint_s = checkpoint_s
        self._requests: dict[str, Request] = {}
        self._cancelled: set[str] = set()
        self._changed = threading.Condition()  # guards all of the above, and is notified when any of it changes
        self._stopped = False
        self._died: BaseException | None = None  # what ended the finisher's thread
        self.ready = threading.Event()  # set once `run` has warmed up
        self.last_step_at = time.monotonic()

    def submit(self, request: Request) -> None:
        """Adds a job. Its images join the next step that has rows for them."""
        self._runner.resume(request)
        with self._changed:
            self._requests[request.key] = request
            self._scheduler.add(request)
            self._changed.notify_all()

    def cancel(self, key: str) -> None:
        """Ends a job before the next step. Ignores a job that is unknown or has ended."""
        with self._changed:
            if key in self._requests:
                self._cancelled.add(key)
                self._changed.notify_all()

    def request_preview(self, key: str) -> None:
        """Emits previews of the job's first image from now on."""
        with self._changed:
            if (request := self._requests.get(key)) is not None:
                request.preview_requested = True

    def free_rows(self) -> int:
        """Capacity minus demand, in rows; negative while images are preempted."""
        with self._changed:
            return self._scheduler.free_rows()

    def unfinished(self) -> list[str]:
        """The keys of all jobs without an outcome."""
        with self._changed:
            return list(self._requests)

    def run(self) -> None:
        """Steps until `stop`, on the device thread.

        An exception here is the device's failure and ends the thread: DeviceLost where the device refuses all work.
        """
        finisher = start_vital("finisher", self._finisher.run, self._on_finisher_error)
        try:
            with steps_first(self._device):
                self._run()
        except Exception as error:
            raise_if_lost(self._device, error)
            raise
        self._finisher.close()
        finisher.join()

    def _run(self) -> None:
        if self._warm_up_jobs:
            self._warm_up()
        self.ready.set()
        while not self._stopped:
            if self._died is not None:
                raise self._died
            if not self._finisher.hangs(FINISH_S):  # an idle device is a healthy one, a hung decode is not
                self._note_progress()
            self._step_or_wait()

    def _step_or_wait(self) -> None:
        if not self.step():
            with self._changed:
                self._changed.wait_for(self._has_work, IDLE_S)

    def _on_finisher_error(self, error: BaseException) -> None:
        """Called on the finisher's thread, which ends: the device's thread ends with the same error."""
        with self._changed:
            self._died = error
            self._changed.notify_all()

    def _warm_up(self) -> None:
        """Runs the warm-up's jobs in the threads that run all jobs. Raises WarmUpFailed."""
        self._emit = outcome = WarmUp(self._warm_up_jobs, self._emit)
        for job in self._warm_up_jobs:
            self.submit(job)
        while outcome.keys & set(self.unfinished()) and not self._stopped:
            self._step_or_wait()
        self._emit = outcome.emit
        outcome.refuse_failed()

    def stop(self, drain_s: float) -> list[str]:
        """Ends `run` once all jobs have ended, or after `drain_s` seconds. Returns the keys of unfinished jobs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._requests, drain_s)
            self._stopped = True
            self._changed.notify_all()
            return list(self._requests)

    def step(self) -> bool:
        """Makes one step of every image that runs. Returns False when there was nothing to do."""
        with self._changed:
            self._drop_ended()
            fresh = self._scheduler.choose(BEGIN_PER_STEP)
        for run in fresh:
            self._begin(run)
        with self._changed:
            batches = self._scheduler.batches()
        for batch in batches:
            self._step(batch)
        with self._changed:
            done = self._scheduler.retire()
        self._report({run.request for batch in batches for run in batch})
        for run in done:
            self._finisher.put(run)
        return bool(fresh or batches or done)

    def save(self) -> list[Saved]:
        """The state of every job that has begun. For use once `run` has ended."""
        begun = [request for request in self._requests.values() if any(run.has_begun for run in request.runs)]
        return [self._runner.save(request) for request in begun]

    def _drop_ended(self) -> None:
        now = time.monotonic()
        for request in list(self._requests.values()):
            if request.key in self._cancelled:
                self._end(request, Cancelled(request.key))
            elif request.deadline is not None and now > request.deadline:
                late = DeadlineExceeded(f"The job's time was up at step {request.step} of {request.payload.steps}.")
                self._end(request, Failed(request.key, late, retryable=False))

    def _begin(self, run: ImageRun) -> None:
        if run.request.key not in self._requests:  # another image of it has just failed
            return
        started = time.perf_counter()
        try:
            self._runner.begin(run, self._note_progress)
        except Exception as error:
            raise_if_lost(self._models[run.model].device, error)
            self._fail(run.request, error)
        self._note_progress()
        seconds = time.perf_counter() - started
        with self._changed:
            self._scheduler.charge_begin(run, seconds)
        self._metrics.stage("begin", seconds)

    def _step(self, batch: list[ImageRun]) -> None:
        computed: list[int] = []

        def called(rows: int) -> None:
            if rows:
                computed.append(rows)
            self._note_progress()

        rows, started = sum(run.rows for run in batch), time.perf_counter()
        failed = self._runner.step(batch, called)
        seconds = time.perf_counter() - started
        with self._changed:
            self._scheduler.charge_step(batch, seconds)
        self._metrics.step(batch[0].model, rows, max(0, sum(computed) - rows), seconds)
        self._metrics.stage("step", seconds)
        for request, error in failed.items():
            self._fail(request, error)

    def _note_progress(self) -> None:
        """Notes progress of the device for the watchdog, which limits one network call, not a whole step."""
        self.last_step_at = time.monotonic()

    def _report(self, requests: set[Request]) -> None:
        """Emits progress, checkpoints and previews. Holds the lock, since a job that ends loses its images."""
        now = time.monotonic()
        with self._changed:
            alive = [request for request in requests if request.key in self._requests]
            if alive:
                self._emit([Progress(request.key, request.step) for request in alive])
            due = [request for request in alive if now - request.saved_at >= self._checkpoint_s]
            if due:
                self._emit([self._runner.save(request) for request in due])
            for request in due:
                request.saved_at = now
            for request in alive:
                if request.preview_is_due(now) and self._finisher.preview(request.runs[0]):
                    request.preview_begins(now)
            counts = {model: self._scheduler.rows(model) for model in self._models}
        for model, count in counts.items():
            self._metrics.rows_running(model, count)

    def _show(self, key: str, data: bytes, seconds: float) -> None:
        """Called on the finisher's thread with a preview that took `seconds`."""
        with self._changed:
            if (request := self._requests.get(key)) is not None:
                request.preview_ended(time.monotonic(), seconds)
                self._emit([Preview(key, data)])

    def _finished(self, run: ImageRun, result: Result, seconds: float) -> None:
        """Called on the finisher's thread."""
        self._note_progress()
        request = run.request
        with self._changed:
            self._scheduler.finished(run, seconds)
            self._changed.notify_all()  # its owner's images may have waited for that, and it for its next pass
        if isinstance(result, Exception):
            self._fail(request, result)
            return
        with self._changed:
            if request.key not in self._requests:
                return
            if isinstance(result, EncodedImage):
                request.done[run.index] = result
            else:
                run.advance(result)
                self._scheduler.enter_next_pass(run)
            if len(request.done) == len(request.runs):
                images = tuple(request.done[index] for index in range(len(request.runs)))
                self._end(request, Finished(request.key, images, self._runner.warnings(request)))

    def _fail(self, request: Request, error: Exception) -> None:
        """Ends a job with an error. An error class of ours says whether to retry; any other error is retried."""
        retryable = getattr(error, "retryable", not isinstance(error, LdmError))
        with self._changed:
            if request.key in self._requests:
                self._end(request, Failed(request.key, error, retryable))

    def _end(self, request: Request, event: Event) -> None:
        """Removes a job in any state and emits its last event. The caller holds the lock."""
        del self._requests[request.key]
        self._cancelled.discard(request.key)
        self._scheduler.remove(request)
        request.runs.clear()  # a cycle would keep its images and latents until the next full garbage collection
        self._emit([event])
        self._changed.notify_all()

    def _has_work(self) -> bool:
        return self._stopped or self._died is not None or bool(self._cancelled) or self._scheduler.has_work()
