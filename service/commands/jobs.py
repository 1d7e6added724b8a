"""`ldm jobs` and `ldm job`: what jobs there are, and one of them shown, followed, saved or cancelled."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from service.commands.output import Output
from service.commands.server_options import add_server_options, connect, server_of
from service.commands.stop import FAILED, INTERRUPTED, USAGE, Stop, ending, say
from service.commands.types import given

if TYPE_CHECKING:
    from ldm_client import Job

ID = re.compile(r"[A-Za-z0-9_-]+")
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
PROMPT_CHARS = 50  # that a line of the list shows
HEADINGS = ("ID", "STATUS", "TASK", "MODEL", "STEP", "CREATED", "PROMPT")


def add_options(name: str, parser: argparse.ArgumentParser) -> None:
    """Those of one command."""
    if name == "jobs":
        parser.add_argument("--status", choices=STATUSES, help="only those")
        parser.add_argument("--limit", type=int, default=20, metavar="INT", help="how many at most (20)")
    else:
        parser.add_argument("id", metavar="ID", help="as `ldm jobs` lists it")
        parser.add_argument("--follow", action="store_true", help="show its progress until it has ended")
        parser.add_argument(
            "--cancel", action="store_true", help="end it; the images of one that had ended are deleted"
        )
        parser.add_argument("-o", "--out", type=given, metavar="FILE", help="save its images; waits for them")
        parser.add_argument("--force", action="store_true", help="overwrite files that exist")
        parser.add_argument("-q", "--quiet", action="store_true", help="no progress; warnings and errors alone")
    parser.add_argument("--json", action="store_true", help="as the server answers it")
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns the exit code."""
    return ending(lambda: _list(args) if args.command == "jobs" else _one(args), server_of(args), _flag)


def _flag(pointer: str) -> str:
    return f"--{pointer}" if pointer in {"status", "limit"} else pointer


def _list(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise Stop(f"--limit: must be at least 1, got {args.limit}", USAGE)
    jobs = list(connect(args).jobs(args.status, args.limit))
    if args.json:
        print(json.dumps([job.raw for job in jobs], ensure_ascii=False, indent=2))
    elif jobs:
        print("\n".join(table([HEADINGS, *map(_row, jobs)])))
    else:
        say(f"no jobs{f' that are {args.status}' if args.status else ''}; the server forgets them after a while")
    return 0


def _row(job: Job) -> tuple[str, ...]:
    """A job's line; of a damaged one little is known."""
    prompt = " ".join(str(job.request.get("prompt", "")).split())
    shown = prompt if len(prompt) <= PROMPT_CHARS else f"{prompt[: PROMPT_CHARS - 1]}…"
    created = str(job.raw.get("created_at") or "")[:19].replace("T", " ")
    return job.id, job.status, job.task or "", job.model, f"{job.step}/{job.steps}", created, shown


def table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Lines with columns as wide as they need; a terminal is shown nothing that it would take for a command."""
    clean = [["".join(c if c.isprintable() else "�" for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    for row in clean:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _one(args: argparse.Namespace) -> int:
    if not ID.fullmatch(args.id):
        raise Stop(f"ID: {args.id!r} is no job's id; `ldm jobs` lists them", USAGE)
    if args.cancel and (args.follow or args.out):
        raise Stop("--cancel does not go with --follow or --out", USAGE)
    job = connect(args).job(args.id)
    if args.cancel:
        job.cancel()
    elif args.follow or args.out:
        _follow(job, args)
    _show(job, args)
    return FAILED if job.status == "failed" and (args.follow or args.out) else 0


def _follow(job: Job, args: argparse.Namespace) -> None:
    """Waits for its end, and saves its images. Ctrl-C leaves it running. Raises Stop, JobFailed, JobCancelled."""
    from service.commands.remote import fetched, follow
    from service.commands.screen import Screen

    output, n = Output.of(args), int(job.request.get("n", 1))
    output.check(n)
    screen = Screen(args)
    try:
        follow(job, screen)
    except KeyboardInterrupt:
        screen.close()
        raise Stop(f"left; job {job.id} goes on (`ldm job {job.id} --cancel` ends it)", INTERRUPTED) from None
    finally:
        screen.close()
    if args.out:
        job.check()
        output.write(fetched(job))


def _show(job: Job, args: argparse.Namespace) -> None:
    """On stdout, unless an image goes there."""
    where = sys.stderr if args.out == "-" else sys.stdout
    if args.json:
        print(json.dumps(job.raw, ensure_ascii=False, indent=2), file=where)
    else:
        print("\n".join(table(_facts(job))), file=where)


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    """What a person wants to know of it."""
    yield "job", job.id
    yield "status", f"{job.status}, step {job.step} of {job.steps}"
    if job.queue_position:
        yield "in the queue", str(job.queue_position)
    yield "task", f"{job.task} with {job.model}"
    for name in ("created_at", "started_at", "finished_at", "expires_at"):
        if job.raw.get(name):
            yield name.partition("_")[0], str(job.raw[name])
    for name, value in job.request.items():
        if name != "model" and value not in (None, "", {}):
            yield name.replace("_", " "), _text(value)
    for i, image in enumerate(job.images):
        yield f"image {i}", f"{image.width}x{image.height} {image.content_type}, seed {image.seed}"
    for warning in job.warnings:
        yield "warning", f"{warning.pointer.lstrip('/')} {warning.detail}".strip()
    if job.error:
        yield "error", str(job.error.get("detail", ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
