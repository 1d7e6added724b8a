"""Draws on a server: makes the job, follows it, fetches its images; Ctrl-C cancels it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn
from uuid import uuid4

from ldm_client import Job, LdmError, ProgressEvent
from ldm_core.params import Task
from service.commands.screen import Screen
from service.commands.server_options import connect
from service.commands.stop import INTERRUPTED, Stop, say
from service.commands.task_options import named


def draw(task: Task, fields: Mapping[str, Any], args: argparse.Namespace, screen: Screen) -> list[bytes]:
    """The files of the job's images. Raises Stop, and what the client raises."""
    client = connect(args)
    make = partial(client.create, task, {**fields, "idempotency_key": uuid4().hex})
    try:
        job = make()
    except KeyboardInterrupt:  # it may be there already, and the same key finds it then
        _cancel(make)
    screen.warn(job.warnings, partial(named, task))
    try:
        follow(job, screen)
        screen.warn(job.warnings, partial(named, task))
        job.check()
        return fetched(job)
    except KeyboardInterrupt:
        screen.close()
        _cancel(lambda: job)
    except LdmError:
        screen.close()
        if not job.ended:
            say(f"job {job.id} goes on without us: `ldm job {job.id} --follow` looks again")
        raise
    finally:
        screen.close()


def follow(job: Job, screen: Screen) -> None:
    """Shows what happens to the job, until it has ended."""
    if not job.ended:
        _show(job, screen)
        for event in job.events(preview=screen.previews):
            _show(job, screen)
            if isinstance(event, ProgressEvent) and event.preview:
                screen.preview(event.preview)
    if not job.ended:
        job.refresh()


def fetched(job: Job) -> list[bytes]:
    """The files of all its images."""
    return [image.bytes() for image in job.images]


def _show(job: Job, screen: Screen) -> None:
    if job.status == "queued":
        place = f", number {job.queue_position} in the queue" if job.queue_position else ""
        screen.say(f"job {job.id} is waiting{place}")
    else:
        screen.step(job.step, job.steps)


def _cancel(found: Callable[[], Job]) -> NoReturn:
    """Ends the job that `found` gives, and the command. Raises Stop; at a second Ctrl-C at once."""
    try:
        say("cancelling the job; Ctrl-C again leaves at once")
        job = found()
        if job.ended:
            raise Stop(f"job {job.id} had ended before; `ldm job {job.id}` has what came of it", INTERRUPTED)
        job.cancel()
    except KeyboardInterrupt:
        raise Stop("left; the job may go on at the server: see `ldm jobs`", INTERRUPTED) from None
    except LdmError as error:
        raise Stop(f"the job could not be cancelled, and may go on: {error}", INTERRUPTED) from None
    raise Stop(f"job {job.id} is {job.status}", INTERRUPTED)
