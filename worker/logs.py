"""Log lines for people (text) or machines (JSON), each with the `CONTEXT` that it has. No torch.

Whatever a client wrote, a line of ours begins where we began it: nothing in a message ends a line or moves a cursor.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

CONTEXT = ("request_id", "job_id", "key")  # pass them as `extra={...}`; `key` is the name of an API key


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: getattr(record, key) for key in CONTEXT if getattr(record, key, None)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII: what a terminal would act on is escaped


class TextFormatter(logging.Formatter):
    """A line to read in a terminal, the traceback of an exception indented below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        context = " ".join(f"{key}={getattr(record, key)}" for key in CONTEXT if getattr(record, key, None))
        return printable(super().formatMessage(record) + (f"  [{context}]" if context else ""))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def printable(text: str) -> str:
    """With an escape for each character that is not one to look at."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def set_up_logging(log_format: Literal["json", "text"], level: int = logging.INFO) -> None:
    """Sends every logger of this process to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # five lines for a start and a stop
    logging.getLogger("rq.worker").setLevel(logging.CRITICAL)  # what it says at length, we say in a line
