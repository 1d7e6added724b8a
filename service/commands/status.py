"""`ldm status`: whether the server is ready, what it serves, and how much waits."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ldm_core.release import release
from service.commands.jobs import table
from service.commands.server_options import add_server_options, connect, server_of
from service.commands.stop import FAILED, ending

if TYPE_CHECKING:
    from ldm_client import Client

HEADINGS = ("MODEL", "TASKS", "SIZE", "STEPS", "WORKERS", "WAITING")


def add_options(name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0 where the server can draw, 1 where it cannot, 3 where there is none."""
    return ending(lambda: _run(args), server_of(args))


def _run(args: argparse.Namespace) -> int:
    state = _state(connect(args), server_of(args))
    if args.json:
        print(json.dumps(state, ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(state)))
    return 0 if state["ready"] else FAILED


def _state(client: Client, server: str) -> dict[str, Any]:
    from ldm_client import ApiError

    client.retry_for = 0
    trouble, models, queue = "", [], dict[str, int]()
    try:
        client.read("/readyz")
    except ApiError as error:
        trouble = error.detail
    with suppress(ApiError):
        models = [model.raw for model in client.models()]
    with suppress(ApiError):  # who keeps its metrics to itself keeps its queue to itself
        queue = _depths(client.read("/metrics"))
    return {
        "server": server, "ready": not trouble, "trouble": trouble, "api": _version(client), "client": release(),
        "models": models, "queue": queue,
    }  # fmt: skip


def _version(client: Client) -> str:
    """That of the server's API."""
    from ldm_client import ApiError

    try:
        return str(json.loads(client.read("/openapi.json"))["info"]["version"])
    except (ApiError, ValueError, KeyError):
        return "unknown"


def _depths(metrics: str) -> dict[str, int]:
    """Jobs that wait, by model."""
    from prometheus_client.parser import text_string_to_metric_families

    depths: dict[str, int] = defaultdict(int)
    for family in text_string_to_metric_families(metrics):
        if family.name == "ldm_queue_depth":
            for sample in family.samples:
                depths[sample.labels["model"]] += int(sample.value)
    return dict(depths)


def _lines(state: dict[str, Any]) -> Iterator[str]:
    yield f"{state['server']} is {'ready' if state['ready'] else 'NOT ready: ' + state['trouble']}"
    yield f"its API is version {state['api']}, this command {state['client']}"
    if state["models"]:
        yield ""
        yield from table([HEADINGS, *(_row(model, state["queue"]) for model in state["models"])])
    total = sum(state["queue"].values())
    yield f"\n{total} job{'' if total == 1 else 's'} waiting"


def _row(model: dict[str, Any], queue: dict[str, int]) -> tuple[str, ...]:
    width, height = model["native_size"]
    steps, workers = str(model.get("default_steps", "")), str(model.get("workers", ""))
    return model["id"], ",".join(model["tasks"]), f"{width}x{height}", steps, workers, str(queue.get(model["id"], 0))
