"""A page of the documentation as one bash script, which runs its blocks in order against a service."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.documents import ROOT, Block
from tests.end_to_end.serving import free_port

LINKED = ("clients", "examples", "ldm_core")  # folders of the clone, in which a reader is
RUN = {"sh", "python", "js"}
# `ldm serve` goes on in the background until the script ends; a reader has a terminal for it.
START = f"""
set -euo pipefail
started=()
stop() {{
  [ "$1" = 0 ] || echo "it ended in $at"
  kill "${{started[@]}}" 2>/dev/null || true
  wait
  exit "$1"
}}
trap 'stop $?' EXIT
curl() {{ command curl -sS --fail-with-body --max-time 120 "$@"; }}
python() {{ command python -W error::SyntaxWarning -P "$@"; }}
ldm() {{ if [ "$1" = serve ]; then serve "${{@:2}}"; else command python -m service "$@"; fi; }}
serve() {{
  local own=(--host 127.0.0.1 --port "$port" --data-dir "$PWD/data-$port")
  command python -m service serve "$@" "${{own[@]}}" >"serve-$port.log" 2>&1 &
  started+=($!)
  until command curl -fs "127.0.0.1:$port/readyz" >/dev/null; do
    kill -0 "${{started[-1]}}" || {{ cat "serve-$port.log"; return 1; }}
    sleep 0.2
  done
}}
ln -s {" ".join(shlex.quote(str(ROOT / name)) for name in LINKED)} .
"""
STARTS_A_SERVER = re.compile(r"^(?:\w+=\S+ )*ldm serve", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """The script, and for each block with an output the file in which it will be."""

    text: str
    outputs: Sequence[tuple[Block, Path]]


def script_of(blocks: Sequence[Block], url: str, folder: Path, receiver: int | None = None) -> Script:
    """Writes the files of a page into `folder`.

    `url`: the service that answers as localhost:8000; `receiver`: the port that stands for 9000, a reader's own server.
    """
    parts, outputs, last = [START], [], Path()
    address, receiver = url.removeprefix("http://"), receiver or free_port()
    for i, block in enumerate(blocks):
        if STARTS_A_SERVER.search(block.text) and block.marker == "":
            port = free_port()
            address = f"127.0.0.1:{port}"
            parts.append(f"port={port}; export LDM_METRICS_PORT=0")
        text = block.text.replace("localhost:8000", address).replace("9000", str(receiver))
        if block.marker.startswith("file: "):
            (folder / block.marker.removeprefix("file: ")).write_text(text)
        elif block.marker == "output":
            outputs.append((block, last))
        elif block.language in RUN and block.marker in {"", "fails"}:
            last = folder / f"output-{i}"
            parts.append(_run(block, text, folder / f"block-{i}", last))
    return Script("\n".join(parts), outputs)


def _run(block: Block, text: str, file: Path, output: Path) -> str:
    """The lines of the script that run a block; its output goes to a file, and where it fails to the test."""
    if block.language == "python":
        file.with_suffix(".py").write_text(text)
        text = f"python {file.with_suffix('.py')}"
    elif block.language == "js":
        file.with_suffix(".mjs").write_text(text)
        text = f"node --experimental-eventsource --no-warnings {file.with_suffix('.mjs')}"
    body = f"{{\n{text}\n}} >{output} 2>&1"
    if block.marker == "fails":
        return f"at={block}\nif {body}; then echo 'it did not fail'; exit 1; fi"
    return f"at={block}\n{body}"


def matches(said: str, expected: Block) -> bool:
    """Whether a program printed what the page shows."""
    if expected.language == "json":
        start = said.find("{")
        return start >= 0 and _like(json.JSONDecoder().raw_decode(said, start)[0], json.loads(expected.text))
    lines = [".*".join(map(re.escape, line.split("…"))) for line in expected.text.splitlines()]
    return re.search(".*?".join(lines), said, re.DOTALL) is not None


def _like(value: Any, shown: Any) -> bool:
    """Whether a JSON value has all that is shown of it."""
    match shown:
        case dict():
            return isinstance(value, dict) and all(key in value and _like(value[key], shown[key]) for key in shown)
        case list():
            return isinstance(value, list) and len(value) == len(shown) and all(map(_like, value, shown))
        case str():
            return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), str(value), re.DOTALL) is not None
    return bool(value == shown)
