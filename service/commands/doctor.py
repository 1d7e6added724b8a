"""`ldm doctor`: what is wrong with an installation, and what to do about it. Works with a broken one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module

from service.commands.findings import Check, Finding, examined
from service.commands.types import given

CHECKS = (
    ("installation", "installation"), ("torch", "installation"), ("kernels", "installation"),
    ("settings", "surroundings"), ("redis", "surroundings"), ("models", "surroundings"), ("ports", "surroundings"),
    ("disk", "surroundings"), ("memory", "surroundings"),
)  # fmt: skip
COLOURS = {"ok": "32", "warning": "33", "error": "31"}


def add_options(name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=given, metavar="DIR", action="append", dest="model_dirs",
        help="a model directory to look at; may be repeated (LDM_MODEL)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs: check, state, said, todo of each finding")


def run(args: argparse.Namespace) -> int:
    """Returns 1 where anything is an error."""
    if args.model_dirs:
        os.environ["LDM_MODEL"] = ",".join(args.model_dirs)
    findings = []
    for finding in examined([(name, _check(name, module)) for name, module in CHECKS]):
        findings.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], ensure_ascii=False, indent=2))
    return int(any(finding.state == "error" for finding in findings))


def _check(name: str, module: str) -> Check:
    """A check, whose module is imported when it is its turn: what that lacks shall be found, and end nothing."""

    def check() -> Iterator[Finding]:
        yield from getattr(import_module(f"service.commands.doctor_{module}"), f"check_{name}")()

    return check


def _line(finding: Finding) -> str:
    state = f"{finding.state:7}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    todo = f" → {finding.todo}" if finding.todo else ""
    return f"{state}  {finding.check}: {' '.join(finding.said.split())}{todo}"
