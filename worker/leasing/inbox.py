"""What the other threads of a worker, and signals, tell its control loop, which alone acts on it."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class WakeUp(NamedTuple):
    """There may be a job for this worker, or room for one."""


class Cancel(NamedTuple):
    """A client has cancelled the job."""

    job_id: str


class PreviewRequested(NamedTuple):
    """A client wants to see previews of the job."""

    job_id: str


class Lost(NamedTuple):
    """The execution is no longer this worker's: its lease had run out."""

    key: str


class Settled(NamedTuple):
    """The outcome of the execution is written down."""

    key: str


class Announced(NamedTuple):
    """The worker is entered among the living; RQ's registration is due."""


class DeviceGone(NamedTuple):
    """The device refuses all work, and its thread has ended."""

    reason: str


class Stop(NamedTuple):
    """A signal; or, with a `reason`, what was in order at the start no longer is."""

    reason: str = ""


Message = WakeUp | Cancel | PreviewRequested | Lost | Settled | Announced | DeviceGone | Stop
Inbox = queue.SimpleQueue[Message]  # its `put` is safe in a signal handler


def messages_of(cancel: Sequence[bytes], lost: Sequence[bytes], previews: Sequence[bytes] = ()) -> Iterator[Message]:
    """The replies of the scripts `progress` and `beat` as messages."""
    yield from (Cancel(job_id.decode()) for job_id in cancel)
    yield from (Lost(key.decode()) for key in lost)
    yield from (PreviewRequested(job_id.decode()) for job_id in previews)
