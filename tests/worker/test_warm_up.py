"""What an engine does before it is ready: every task of every model once, in the threads that will run them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_core import tasks
from ldm_core.errors import JobError
from tests.tiny import tiny_models
from tests.worker.engine_kit import Kept, job
from worker.engine.request import Finished
from worker.engine.warm_up import STEPS, WarmUpFailed, warm_up_jobs

ROOT = Path(__file__).parents[2]


def warm_up() -> Any:
    return warm_up_jobs([model.card for model in tiny_models().values()])


def test_each_task_is_warmed_at_native_size() -> None:
    jobs = warm_up()
    assert {(each.payload.model, each.params.task, each.params.strength) for each in jobs} == {
        ("scenes", "txt2img", None), ("scenes", "txt2img", 1.0), ("scenes", "inpaint", None),
        ("scenes-superres", "superres", None),
    }  # fmt: skip
    cards = {name: model.card for name, model in tiny_models().items()}
    assert all((each.params.width, each.params.height) == cards[each.payload.model].native_size for each in jobs)


def test_the_threads_of_jobs_are_warmed_before_the_engine_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, threads, ready = Kept(warm_up=warm_up()), defaultdict(set), []
    for name in ("begin", "finish"):
        plain = getattr(tasks, name)

        def noted(*given: Any, _plain: Any = plain, _name: str = name) -> Any:
            threads[_name].add(threading.current_thread().name)
            ready.append(kept.engine.ready.is_set())
            return _plain(*given)

        monkeypatch.setattr(tasks, name, noted)
    device = threading.Thread(target=kept.engine.run, name="device", daemon=True)
    device.start()
    assert kept.engine.ready.wait(60)
    finisher = "finisher" if torch.get_num_threads() == 1 else "run-in-thread"  # which the finisher starts
    assert threads == {"begin": {"device"}, "finish": {finisher}}
    assert ready == [False] * 2 * len(warm_up())
    assert {model for model, _, _ in kept.batches} == {"scenes", "scenes-superres"}
    assert sum(rows for _, rows, _ in kept.batches) == STEPS * (2 + 2 + 2 + 1)
    assert not kept.events, "nobody has asked for these jobs"
    kept.engine.submit(job())
    kept.engine.stop(60)
    device.join(60)
    assert isinstance(kept.outcome("job"), Finished)
    cold = Kept()
    cold.submit(job())
    cold.run_all()
    assert kept.images("job") == cold.images("job"), "the warm-up leaves no trace in later images"


@pytest.mark.parametrize("stage", ["begin", "finish"])
def test_a_warm_up_that_fails_says_of_which_model_and_why(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise JobError("no kernel image is available")

    monkeypatch.setattr(tasks, stage, broken)
    kept = Kept(warm_up=warm_up())
    with pytest.raises(WarmUpFailed, match=r"model 'scenes' cannot do txt2img at 64x64 .*: no kernel image is avail"):
        kept.engine.run()
    assert not kept.engine.ready.is_set()


def test_an_engine_that_is_stopped_ends_its_warm_up() -> None:
    kept = Kept(warm_up=[job("endless", steps=1000)])
    device = threading.Thread(target=kept.engine.run)
    device.start()
    kept.engine.stop(0)
    device.join(60)
    assert not device.is_alive()


FAILING = """
from ldm_core import tasks
from tests.worker.engine_kit import Kept
from tests.tiny import tiny_models
from worker.engine.warm_up import warm_up_jobs
from worker.vital import start_vital

def broken(*_):
    raise ValueError("no kernel image is available")

tasks.finish = broken
start_vital("device", Kept(warm_up=warm_up_jobs([tiny_models()["scenes"].card])).engine.run).join()
"""


def test_a_worker_whose_warm_up_fails_does_not_live_on() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "WarmUpFailed: model 'scenes' cannot do txt2img at 64x64 on this device: no kernel" in done.stderr
