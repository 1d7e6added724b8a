"""How the host keeps pace with a GPU, which computes while the host goes on. On a CPU a call that returns has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

STEPS, BESIDE = -1, 0  # priorities of streams, the lower one first
Program = Callable[[], None]  # reads and writes tensors that stay where they are


def as_it_is(program: Program) -> Program:
    """The program itself, for a device on which a launch costs little."""
    return program


def host_buffer(like: Tensor, device: torch.device) -> Tensor:
    """Zeros in main memory that `device` reads and writes while the host goes on."""
    return torch.zeros(like.shape, dtype=like.dtype, pin_memory=device.type == "cuda")


class Pace:
    """Keeps the host one launch ahead of the device, so that the device has its next work before it ends the present.

    What a launch has written to main memory may be read once `launched` has waited for it, or for a later one.
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
    with _on_stream(device, STEPS):
        yield


@contextmanager
def beside_steps(device: torch.device) -> Iterator[None]:
    """A block, of another thread, that comes after all steps that have been launched, beside those that will be."""
    with _on_stream(device, BESIDE, after=(STEPS,)):
        yield


@contextmanager
def _on_stream(device: torch.device, priority: int, after: tuple[int, ...] = ()) -> Iterator[None]:
    """A block on the stream of this priority, after those of others and the default one, on which weights come."""
    if device.type != "cuda":
        yield
        return
    stream = _stream(device, priority)
    for before in (torch.cuda.default_stream(device), *(_stream(device, other) for other in after)):
        stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield


@cache
def _stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=priority)
