"""How the host keeps pace with a GPU, which computes while the host goes on. On a CPU a call that returns has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

STEPS, BESIDE = -1, 0  # priorities of streams, the lower one first


def host_buffer(like: Tensor, device: torch.device) -> Tensor:
    """Zeros in main memory that `device` reads and writes while the host goes on."""
    return torch.zeros(like.shape, dtype=like.dtype, pin_memory=device.type == "cuda")


class Pace:
    """Keeps the host one launch ahead of the device, so that the device has its next work before it ends the present.

    A launch's results in main memory may be read once `ended` has returned for it, or for a later one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: torch.cuda.Event | None = None

    def launched(self, *, wait: bool) -> None:
        """Notes a launch, then waits for the one before it; with `wait`, for this one too."""
        if self._device.type != "cuda":
            return
        now = torch.cuda.Event()
        now.record(torch.cuda.current_stream(self._device))
        before, self._before = self._before, now
        if wait:
            now.synchronize()
        elif before is not None:
            before.synchronize()


@contextmanager
def steps_first(device: torch.device) -> Iterator[None]:
    """A block, of the thread that steps, whose kernels go before those of `beside_steps` where both wait."""
    if device.type != "cuda":
        yield
        return
    stream = _stream(device, STEPS)
    stream.wait_stream(torch.cuda.default_stream(device))  # on which the weights were loaded
    with torch.cuda.stream(stream):
        yield


@contextmanager
def beside_steps(device: torch.device) -> Iterator[None]:
    """A block, of another thread, that comes after all steps that have been launched, beside those that will be."""
    if device.type != "cuda":
        yield
        return
    stream = _stream(device, BESIDE)
    for before in (_stream(device, STEPS), torch.cuda.default_stream(device)):
        stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield


@cache
def _stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=priority)
