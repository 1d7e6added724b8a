"""The options of each task, read from its request: a field that the service gets, `ldm` has."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from typing_extensions import TypeAliasType

from ldm_core.params import Task
from service.commands.server_options import add_server_options
from service.commands.types import given, pair, path
from service.intake.schemas import IMAGE_FIELDS
from service.intake.tasks import REQUESTS, LayoutThing

FIRST = {  # what stands beside the options: its field, and whether it may be left out
    "txt2img": ("prompt", False), "inpaint": ("prompt", True), "superres": ("image", False),
    "class2img": ("label", False), "semantic2img": ("map", False),
}  # fmt: skip
LABEL = ("class_id", "class_name")  # one argument here: a number is an id
OTHER_FLAGS = {"negative_prompt": ["--negative", "--negative-prompt"], "objects": ["--object"]}
SAID = {
    "prompt": "what to draw", "priority": "among your own jobs", "format": "of the file; that of its suffix otherwise",
    "objects": "a thing and its box, as shares of width and height; may be repeated",
}  # fmt: skip
WORDS = {"/v1/models": "`ldm status`", "size_multiple": "size multiple", "in the same job": "as well"}
UNION = {Union, type(int | None)}
GRAPHICS = ("auto", "kitty", "iterm2", "sixel", "off")


class Option(NamedTuple):
    """An option: its flags, or a name without dashes, and what argparse shall know of it."""

    flags: list[str]
    settings: dict[str, Any]


def add_options(name: str, parser: argparse.ArgumentParser) -> None:
    """All options of a task."""
    for option in options_of(cast("Task", name)):
        parser.add_argument(*option.flags, **option.settings)
    _add_output(parser.add_argument_group("where the image goes"))
    server = parser.add_argument_group("who draws it")
    add_server_options(server)
    server.add_argument("--local", action="store_true", help="draw in this process, without a server")
    server.add_argument(
        "--model-dir", type=given, metavar="DIR", action="append", help="with --local: a model directory (LDM_MODEL)"
    )


def options_of(task: Task) -> Iterator[Option]:
    """The task's own arguments, and an option for each field of its request."""
    first, optional = FIRST.get(task, ("", True))
    fields = REQUESTS[task].model_fields
    if first == "label":
        yield Option(["label"], {"metavar": "LABEL", "help": "a class, by its id or its name"})
    elif first:
        more = {"nargs": "?"} if optional else {}
        kind = {**_taking(first, _kind(fields[first].annotation)), "metavar": first.upper()}
        yield Option([first], {**kind, "help": _help(first, fields[first]), **more})
    for name, field in fields.items():
        if name not in {first, *LABEL}:
            yield _option(name, field, task)


def flag_of(task: Task, field: str) -> str:
    """What a field is called on the command line: PROMPT, --guidance-scale."""
    if field == FIRST.get(task, ("",))[0] or (field in LABEL and task == "class2img"):
        return "LABEL" if field in LABEL else field.upper()
    return _flags(field)[0]


def named(task: Task, pointer: str) -> str:
    """An option by the JSON pointer, without its slash, to what is at fault: objects/0/label is --object 1."""
    field, *rest = pointer.split("/")
    return " ".join([flag_of(task, field), *(str(int(part) + 1) if part.isdecimal() else part for part in rest)])


def _flags(field: str) -> list[str]:
    return OTHER_FLAGS.get(field) or [f"--{field.replace('_', '-')}"]


def _option(name: str, field: FieldInfo, task: Task) -> Option:
    settings = {"dest": name, "required": field.is_required(), "help": _help(name, field)}
    return Option(_flags(name), {**settings, **_taking(name, _kind(field.annotation))})


def _taking(name: str, kind: Any) -> dict[str, Any]:
    """How an option takes values of a kind."""
    if name in IMAGE_FIELDS:
        repeated = {"action": "append"} if get_origin(kind) is list else {}
        return {"type": path, "metavar": "FILE", **repeated}
    if kind is bool:
        return {"action": "store_true", "default": None}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is dict:
        return {"type": pair, "action": "append", "metavar": "KEY=VALUE"}
    if get_args(kind) == (LayoutThing,):
        return {"action": "append", "nargs": 5, "metavar": ("LABEL", "X0", "Y0", "X1", "Y1")}
    takes: Callable[[str], Any] = {int: int, float: float, str: str}[kind]  # another kind of field is to be added here
    return {"type": takes, "metavar": {int: "INT", float: "NUMBER", str: "TEXT"}[kind]}


def _kind(annotation: Any) -> Any:
    """The type under aliases, annotations and `| None`."""
    if isinstance(annotation, TypeAliasType):
        return _kind(annotation.__value__)
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in UNION:
        kinds = [each for each in get_args(annotation) if each is not NoneType]
        return _kind(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _help(name: str, field: FieldInfo) -> str:
    """The field's description with its limits, in the words of this command."""
    text = SAID.get(name) or (field.description or name.replace("_", " "))
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    if name in IMAGE_FIELDS:
        text = f"{text.partition(': base64')[0].partition('; in multipart')[0]}; - reads standard input"
    return f"{text}{_limits(field)}".replace("%", "%%")


def _limits(field: FieldInfo) -> str:
    low = next((each.ge for each in field.metadata if isinstance(each, Ge)), None)
    high = next((each.le for each in field.metadata if isinstance(each, Le)), None)
    if low is None:
        return ""
    return f" (at least {low})" if high is None else f" ({low} to {high})"


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-o", "--out", type=given, metavar="FILE",
        help="where to write it; several become FILE-1, FILE-2; - is standard output. "
        ".jpg and .webp stand for --format too",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="overwrite files that exist")
    group.add_argument("--show", action="store_true", help="show it in the terminal, where that shows images")
    group.add_argument(
        "--preview", action=argparse.BooleanOptionalAction, help="show what it is going to be (where that can be shown)"
    )
    group.add_argument(
        "--graphics", choices=GRAPHICS, default="auto",
        help="how the terminal shows images; auto finds kitty's protocol and iTerm2's, sixel has to be asked for",
    )  # fmt: skip
    group.add_argument("-q", "--quiet", action="store_true", help="no progress; warnings and errors alone")
