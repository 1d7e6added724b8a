"""`ldm txt2img` and the other tasks: options into a request, a job on a server or none, images to files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from ldm_core.params import MAX_IMAGES, Task
from service.commands.output import STDOUT, Output, format_of
from service.commands.screen import Screen
from service.commands.server_options import server_of
from service.commands.stop import USAGE, Stop, ending, say
from service.commands.task_options import LABEL, flag_of, named
from service.intake.schemas import IMAGE_FIELDS
from service.intake.tasks import REQUESTS

OF_A_SERVER = ("priority", "timeout", "webhook", "metadata")  # fields without a meaning where there is none


def run(args: argparse.Namespace) -> int:
    """Draws, and returns the exit code."""
    return ending(lambda: _draw(args), server_of(args), partial(named, cast("Task", args.command)))


def _draw(args: argparse.Namespace) -> int:
    task = cast("Task", args.command)
    output = Output.of(args)
    if output.out is None and not args.show:
        raise Stop("say where the image goes: -o FILE, or --show for this terminal alone", USAGE)
    args.format = format_of(output.out, args.format)
    output.check(args.n if args.n and 1 <= args.n <= MAX_IMAGES else 1)
    fields = fields_of(task, args)
    screen = Screen(args)
    if output.out is None and not screen.shows:
        raise Stop("--show: this terminal is not known to show images; say -o FILE, or --graphics", USAGE)
    images = _drawer(args)(task, fields, args, screen)
    try:
        output.write(images)
    except Stop:
        if not args.local:
            say("the server keeps them for a while: `ldm jobs`, then `ldm job ID -o FILE`")
        raise
    for image in images:
        screen.image(image)
    return 0


def _drawer(args: argparse.Namespace) -> Callable[..., list[bytes]]:
    if not args.local:
        if args.model_dir:
            raise Stop("--model-dir goes with --local: a server has models of its own (see `ldm status`)", USAGE)
        from service.commands.remote import draw as on_server

        return on_server
    for name in OF_A_SERVER:
        if getattr(args, name) is not None:
            raise Stop(f"--{name} is for a server, and does not go with --local", USAGE)
    if args.server or args.api_key_file:
        raise Stop(f"{'--server' if args.server else '--api-key-file'} does not go with --local", USAGE)
    from service.commands.local import draw as here

    return here


def fields_of(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """The request's fields that were given, images read. Raises Stop."""
    known = REQUESTS[task].model_fields
    fields = {name: value for name in known if (value := getattr(args, name, None)) is not None}
    if task == "class2img":
        fields |= {LABEL[0]: int(args.label)} if args.label.isdecimal() else {LABEL[1]: args.label}
    if "metadata" in fields:
        fields["metadata"] = dict(fields["metadata"])
    if "objects" in fields:
        fields["objects"] = [_thing(i, *words) for i, words in enumerate(fields["objects"])]
    if sum(str(path) == STDOUT for path in _paths(fields)) > 1:
        raise Stop("standard input holds one image: - can be given once", USAGE)
    for name in fields.keys() & IMAGE_FIELDS:
        given, flag = fields[name], flag_of(task, name)
        fields[name] = [_image(path, flag) for path in given] if isinstance(given, list) else _image(given, flag)
    return fields


def _paths(fields: dict[str, Any]) -> Iterator[Path]:
    for name in fields.keys() & IMAGE_FIELDS:
        yield from fields[name] if isinstance(fields[name], list) else [Path(fields[name])]


def _thing(index: int, label: str, *box: str) -> dict[str, Any]:
    try:
        shares = [float(part) for part in box]
    except ValueError:
        raise Stop(f"--object {index + 1}: X0 Y0 X1 Y1 must be numbers, got {' '.join(box)}", USAGE) from None
    return {"label": int(label) if label.isdecimal() else label, "box": shares}


def _image(given: str | Path, flag: str) -> bytes:
    """The bytes of a file, or of standard input. Raises Stop."""
    path = Path(given)
    try:
        data = sys.stdin.buffer.read() if str(path) == STDOUT else path.expanduser().read_bytes()
    except OSError as error:
        raise Stop(f"{flag}: cannot read {path}: {error.strerror}", USAGE) from None
    if not data:
        raise Stop(f"{flag}: {'standard input' if str(path) == STDOUT else path} is empty", USAGE)
    return data
