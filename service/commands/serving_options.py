"""The options of the commands that run a service."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.commands.types import given, path


def add_options(name: str, parser: argparse.ArgumentParser) -> None:
    """Those of one command."""
    if name == "key":
        parser.add_argument("name", metavar="NAME", help="letters, digits, '_' and '-'")
        parser.add_argument(
            "--file",
            type=path,
            metavar="FILE",
            help="adds the entry to this file; stdout gets the key and nothing else",
        )
    elif name == "import":
        _add_import(parser)
    if name in {"serve", "gateway"}:
        parser.add_argument(
            "--api-keys-file", type=given, metavar="FILE", help="who may send jobs; `ldm key` makes its entries"
        )
        parser.add_argument("--host", help="address to listen on (127.0.0.1)")
        parser.add_argument("--port", type=int, help="port to listen on (8000)")
    if name in {"worker", "gateway"}:
        parser.add_argument("--redis-url", metavar="URL", help="redis://, rediss:// or unix://")
    if name in {"serve", "worker", "gateway"}:
        parser.add_argument("--data-dir", type=given, metavar="DIR", help="where jobs and images are kept")
    if name in {"serve", "worker"}:
        parser.add_argument("--device", help="cpu, cuda, cuda:1 (the best there is)")
    if name in {"serve", "worker", "models"}:
        parser.add_argument(
            "--model", type=given, metavar="DIR", action="append", dest="model_dirs",
            help="a model directory; may be repeated",
        )  # fmt: skip


def _add_import(parser: argparse.ArgumentParser) -> None:
    def add(option: str, kind: type[str] | type[Path], metavar: str, help: str, required: bool = False) -> None:  # noqa: A002
        parser.add_argument(option, type=path if kind is Path else given, metavar=metavar, help=help, required=required)

    add("--ckpt", Path, "FILE", "the checkpoint", required=True)
    add("--config", Path, "FILE", "the yaml it was trained with", required=True)
    add("--out", Path, "DIR", "the directory to write", required=True)
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="averaged weights or not (what the yaml says)"
    )
    add("--tokenizer", str, "DIR", "a tokenizer's folder, where the yaml names none at hand")
    add("--clip", Path, "DIR", "a CLIPModel's folder, for retrieval-augmented models")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="the side that it was trained at, where the yaml has another"
    )
    add("--vae", Path, "PATH", "a first stage in place of its own: a diffusers folder, or a file")
    add("--labels", Path, "FILE", "names of its classes or labels, one a line")
