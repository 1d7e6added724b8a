"""Triton's interpreter, which runs kernels on CPUs: in a process of its own, because Triton decides at import."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class Interpreter:
    """Calls functions of importable modules where Triton's kernels are interpreted."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        # as bytes: torch would pass tensors between processes as shared memory, which ends with its owner
        called = pickle.dumps((function, args, kwargs))
        return pickle.loads(self._pool.submit(_call, called).result())


@contextmanager
def started() -> Iterator[Interpreter]:
    """An interpreter, for as long as the block runs."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_interpret) as pool:
        yield Interpreter(pool)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


@torch.inference_mode()
def _call(called: bytes) -> bytes:
    function, args, kwargs = pickle.loads(called)
    return pickle.dumps(function(*args, **kwargs))
