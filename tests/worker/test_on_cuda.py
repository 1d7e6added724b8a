"""The engine on a GPU that is only pretended, and the prefork parent, which asks for none."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_core import tasks
from ldm_core.errors import NonFiniteImage
from ldm_core.loading.model import load_model
from tests.pretended_cuda import PretendedCuda, pretended_cuda
from tests.tiny import write_tiny_models
from tests.worker.engine_kit import Kept, inpaint, job, superres
from worker.engine.request import Failed, Finished, Preview, Saved


@pytest.fixture(scope="module")
def gpu() -> Iterator[PretendedCuda]:
    with pretended_cuda() as gpu:
        yield gpu


@pytest.fixture(scope="module")
def models(gpu: PretendedCuda, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return {path.name: load_model(path, "cuda") for path in write_tiny_models(tmp_path_factory.mktemp("models"))}


@pytest.fixture(autouse=True)
def _on_gpu(models: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's kit takes its models from the GPU."""
    monkeypatch.setattr("tests.worker.engine_kit.tiny_models", lambda: models)


def test_the_engine_serves_all_tasks() -> None:
    kept = Kept(checkpoint_s=1e9)
    requests = [job("a"), inpaint("b", sampler="plms"), superres("c", sampler="ddpm")]
    for request in requests:
        kept.engine.submit(request)
    kept.run_all()
    assert all(kept.images(request.key) for request in requests)


def test_steps_go_before_decoding_on_a_stream_of_their_own(gpu: PretendedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, streams = Kept(checkpoint_s=1e9), []
    for name in ("begin", "finish"):
        plain = getattr(tasks, name)

        def noted(*args: Any, plain: Any = plain) -> Any:
            streams.append(torch.cuda.current_stream().priority)
            return plain(*args)

        monkeypatch.setattr(tasks, name, noted)
    thread = threading.Thread(target=kept.engine.run)
    thread.start()
    kept.engine.submit(job("a"))
    assert kept.engine.stop(60) == []
    thread.join()
    assert kept.images("a")
    assert streams == [-1, 0]


def test_a_preview_comes_from_the_device() -> None:
    kept = Kept()
    kept.engine.submit(job("a"))
    kept.engine.request_preview("a")
    kept.run_all()
    assert [type(event) for event in kept.events if isinstance(event, Preview | Finished)] == [Preview, Finished]


def test_a_checkpoint_comes_from_the_device_and_goes_back() -> None:
    kept = Kept(checkpoint_s=1e-9)
    kept.engine.submit(job("a", steps=4))
    kept.engine.step()
    saved = next(event for event in kept.events if isinstance(event, Saved))
    other = Kept(checkpoint_s=1e9)
    other.engine.submit(job("a", steps=4, checkpoint=saved.encode()))
    other.run_all()
    kept.run_all()
    finished = [event for event in kept.events if isinstance(event, Finished)]
    assert [image.data for image in finished[0].images] == other.images("a")
    assert len(other.batches) == 3


def test_an_image_that_is_not_finite_fails_its_job_alone() -> None:
    kept = Kept()
    kept.engine.submit(job("bad", steps=1))
    kept.engine.submit(job("mate", steps=1))
    kept.engine.step()
    sample = kept.engine._requests["bad"].runs[0].sample
    assert sample is not None and sample.done
    sample.x = torch.full_like(sample.x, torch.nan)
    kept.run_all()
    failed = kept.outcome("bad")
    assert isinstance(failed, Failed) and isinstance(failed.error, NonFiniteImage) and not failed.retryable
    assert kept.images("mate")


ASKED = """
import torch
asked = []
def noted(module, name):
    function = getattr(module, name)
    def call(*args, **kwargs):
        asked.append(name)
        return function(*args, **kwargs)
    setattr(module, name, call)
for name in ("is_available", "device_count", "init", "get_device_properties", "get_device_capability"):
    noted(torch.cuda, name)
for name in ("is_available", "device_count"):
    noted(torch.accelerator, name)
import worker.process.prefork
print(asked)
"""


def test_what_is_forked_has_not_even_asked_for_a_device() -> None:
    """torch.cuda.is_available() loads the driver, and a process forked after that cannot use it ("bad fork")."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", ASKED], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
