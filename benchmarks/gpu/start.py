"""From the beginning of a process to an engine that is warm: imports, weights from files, every task once.

    python -m benchmarks.gpu.start FOLDER DEVICE DTYPE

does that in its own process, and says when it has loaded and when it is ready.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.batching import Metrics
from benchmarks.gpu.workloads import Bench, Result
from benchmarks.loading import write_directory
from benchmarks.networks import BUILTIN
from worker.engine.engine import Engine
from worker.engine.run_in_thread import run_in_thread
from worker.engine.warm_up import warm_up_jobs
from worker.process.main import load_models, rows_of
from worker.settings import WorkerSettings
from worker.vital import start_vital

FROM_FILES = ("sd1-512", "scenes")


def measure(bench: Bench, name: str) -> Iterator[Result]:
    """Starts from files that are in memory, since they were just written or read.

    On a GPU the first start compiles Triton's kernels, the second one finds them in Triton's cache.
    """
    if name not in FROM_FILES:
        yield {"skipped": f"only {' and '.join(FROM_FILES)} are started from files"}
        return
    with _directory(bench, name) as folder, tempfile.TemporaryDirectory() as cache:
        for kernels in ("compiled", "cached") if bench.on_gpu else ("none on a CPU",):
            yield {"kernels": kernels, **_start(bench, folder, cache)}


@contextmanager
def _directory(bench: Bench, name: str) -> Iterator[Path]:
    """The built-in model, or random weights of Stable Diffusion 1.x's size in half precision, as they are published."""
    if name == "scenes":
        yield BUILTIN / "scenes"
        return
    import torch

    with tempfile.TemporaryDirectory() as folder:
        yield write_directory(Path(folder) / "model", torch.float16)


def _start(bench: Bench, folder: Path, cache: str) -> Result:
    """What a process says of itself, and the seconds that it has taken to its end."""
    dtype = str(bench.dtype).removeprefix("torch.")
    command = [sys.executable, "-m", "benchmarks.gpu.start", str(folder), str(bench.device), dtype]
    began = time.time()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "TRITON_CACHE_DIR": cache}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {"loaded_s": round(found["loaded"] - began, 2), "ready_s": round(found["ready"] - began, 2)}


def main() -> None:
    """Loads and warms up as `ldm worker` does, which warms up on a GPU alone."""
    folder, device, dtype = sys.argv[1:]
    settings = WorkerSettings.model_validate({"model": folder, "device": device, "dtype": dtype})
    models = run_in_thread(lambda: load_models(settings))
    loaded = time.time()
    engine = Engine(
        models, rows={name: rows_of(model, settings) for name, model in models.items()}, max_rows=settings.max_rows,
        emit=lambda events: None, metrics=Metrics(), warm_up=warm_up_jobs(model.card for model in models.values()),
    )  # fmt: skip
    thread = start_vital("device", engine.run)
    engine.ready.wait()
    print(json.dumps({"loaded": loaded, "ready": time.time()}), flush=True)
    engine.stop(0)
    thread.join()  # a process that ends while a thread uses CUDA may crash


if __name__ == "__main__":
    main()
