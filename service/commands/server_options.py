"""Which server, with which key: options, and the client that they make. No httpx until there is one."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.stop import USAGE, Stop
from service.commands.types import path

if TYPE_CHECKING:
    from ldm_client import Client

SERVER = "http://127.0.0.1:8000"
RETRY_FOR_S = 30.0


def add_server_options(parser: Any) -> None:
    parser.add_argument("--server", metavar="URL", help=f"the server (LDM_SERVER, else {SERVER})")
    parser.add_argument(
        "--api-key-file", type=path, metavar="FILE", help="a file with the API key and nothing else (LDM_API_KEY)"
    )


def server_of(args: argparse.Namespace) -> str:
    """Its address."""
    return str(args.server or os.environ.get("LDM_SERVER") or SERVER).rstrip("/")


def connect(args: argparse.Namespace) -> Client:
    """A client of a server that is there. Raises Stop, ConnectionFailed, ApiError."""
    from ldm_client import Client, Unavailable

    logging.getLogger("ldm_client").addHandler(_Lines())
    try:
        client = Client(server_of(args), _key(args.api_key_file), retry_for=0)
    except ValueError as error:
        raise Stop(f"--server: {error}".replace("server must", "must"), USAGE) from None
    with suppress(Unavailable):
        client.models()  # who mistypes an address shall not wait until retries are over
    client.retry_for = RETRY_FOR_S
    return client


def _key(file: Path | None) -> str | None:
    """The key in a file. None: the environment's."""
    if file is None:
        return None
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(
            f"--api-key-file: cannot read {file}: {getattr(error, 'strerror', 'it is no text')}", USAGE
        ) from None
    if not key or not key.isascii() or len(key.split()) > 1:
        raise Stop(f"--api-key-file: {file} must hold an API key and nothing else", USAGE)
    return key


class _Lines(logging.Handler):
    """Says on stderr what the client logs: why it tries again."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"ldm: {record.getMessage()}", file=sys.stderr)
