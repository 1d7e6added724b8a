"""Log lines for people (text) or machines (JSON), each with the `CONTEXT` that it has. No torch."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

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
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line to read in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        context = " ".join(f"{key}={getattr(record, key)}" for key in CONTEXT if getattr(record, key, None))
        return super().format(record) + (f"  [{context}]" if context else "")


def set_up_logging(log_format: Literal["json", "text"], level: int = logging.INFO) -> None:
    """Sends every logger of this process to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("rq.worker").setLevel(logging.CRITICAL)  # what it says at length, we say in a line
