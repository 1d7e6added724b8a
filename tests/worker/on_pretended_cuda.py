"""A worker process on a pretended GPU, all of it real beside the GPU: `python -m tests.worker.on_pretended_cuda`.

LDM_TEST_LOSE=STAGE:CALL:TEXT loses the device at that call of `begin`, `step` or `finish`, in these words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from tests.pretended_cuda import PretendedCuda, pretended_cuda
from worker.process.main import main

STAGES: dict[str, tuple[Any, str]] = {
    "begin": (tasks, "begin"), "step": (Denoiser, "step_group"), "finish": (tasks, "finish"),
}  # fmt: skip


def losing(gpu: PretendedCuda, function: Callable[..., Any], call: int, text: str) -> Callable[..., Any]:
    """The function, in whose `call`-th call the device is lost."""
    calls = count(1)

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            gpu.lose(text)
        return function(*args, **kwargs)

    return called


if __name__ == "__main__":
    with pretended_cuda() as gpu:
        if told := os.environ.get("LDM_TEST_LOSE"):
            stage, call, text = told.split(":", 2)
            setattr(*STAGES[stage], losing(gpu, getattr(*STAGES[stage]), int(call), text))
        sys.exit(main())
