"""API keys: who may send jobs, and how many. Only their SHA-256 is ever stored or compared.

A fast hash is right here, where it would be wrong for passwords: a key is 256 random bits, which nobody finds by
guessing, however quickly each guess is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldm_core.errors import LdmError
from ldm_core.params import Task
from service.access.quota import Quota
from worker.jobs import Priority

log = logging.getLogger(__name__)

NAME = r"[A-Za-z0-9_-]{1,64}"
SHA256 = r"[0-9a-f]{64}"
MIN_SECRET_CHARS = 16
STALE = "; the server's file of keys has changed and cannot be read, its log says why"
TWICE = re.compile(rf"Cannot declare \('({NAME})',\) twice")  # as tomllib says it
CHECK_S = 1.0  # how often the file is looked at


class BadKeys(LdmError):
    """The configured keys cannot be read."""


class Unauthorized(LdmError):
    """No key, or one that nobody knows."""


class Forbidden(LdmError):
    """A known key that may not do this."""

    reason = "forbidden"


# a job's weight in the device's time across keys, by the `max_priority` of its key
WEIGHTS: Mapping[Priority, float] = {"high": 8.0, "normal": 1.0, "low": 1 / 8}


class ApiKey(BaseModel):
    """One key's entry; `None` and 0 mean no limit.

    Keys with work share the device's time equally, and a job's `priority` orders it among its own key's jobs alone.
    `max_priority` changes a key's share against other keys: `"high"` gives it eight times the share while it has jobs
    of priority `high` running, `"low"` gives it an eighth whatever it sends, `"normal"` is an equal share. Without
    keys all jobs are one owner's, and priorities order them all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=rf"^{NAME}$")
    sha256: str = Field(pattern=rf"^{SHA256}$", repr=False)
    open_jobs: int = Field(default=0, ge=0)
    rate: int = Field(default=0, ge=0)
    window_s: float = Field(default=60, ge=1, allow_inf_nan=False)
    tasks: frozenset[Task] | None = None
    models: frozenset[str] | None = None
    max_priority: Priority = "normal"
    disabled: bool = False

    @property
    def quota(self) -> Quota:
        return Quota(open_jobs=self.open_jobs, rate=self.rate, window_s=self.window_s)

    def weight(self, priority: Priority) -> float:
        """The weight of a job's share of the device's time against the jobs of other keys."""
        return WEIGHTS[self.max_priority] if priority == "high" or self.max_priority == "low" else 1.0

    def may_use(self, model: str) -> bool:
        """Whether the key's jobs may go to this model."""
        return self.models is None or model in self.models

    def check_task(self, task: Task) -> None:
        """Raises Forbidden where the key may not send such jobs."""
        if self.tasks is not None and task not in self.tasks:
            raise Forbidden(f"this key may not use {task}; it may use {_listed(self.tasks)}")

    def check_model(self, model: str) -> None:
        """Raises Forbidden where the key may not use the model."""
        if self.models is not None and model not in self.models:
            raise Forbidden(f"this key may not use model {model[:80]!r}; it may use {_listed(self.models)}")


ANYONE = ApiKey.model_construct(name="", sha256="")  # who sends jobs where no keys are configured


class KeyRing:
    """All keys: those of the environment, and those of a file that is read again whenever it changes."""

    def __init__(self, text: str = "", file: Path | None = None) -> None:
        """Raises BadKeys."""
        self._file, self._fixed = file, parse_list(text)
        self._stamp, self._look_at = self._file_stamp(), time.monotonic() + CHECK_S
        self._keys = self._read()
        self._broken = False  # the file, since it was last looked at

    @property
    def configured(self) -> bool:
        """Whether callers need a key at all. A file without entries lets nobody in."""
        return self._file is not None or bool(self._fixed)

    def caller(self, secret: str | None) -> ApiKey:
        """Whose key it is. Raises Unauthorized or Forbidden."""
        if secret is None:
            raise Unauthorized("send your API key: Authorization: Bearer KEY")
        self._refresh()
        digest = _sha256(secret.encode("latin-1", "replace"))  # how header bytes become text
        found: ApiKey | None = None
        for key in self._keys:  # always all of them, so that the time taken tells nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise Unauthorized("this API key is unknown" + (STALE if self._broken else ""))
        if found.disabled:
            raise Forbidden("this API key is disabled")
        return found

    def named(self, name: str) -> ApiKey:
        """The key of that name. Raises Forbidden where it is gone or disabled."""
        self._refresh()
        for key in self._keys:
            if key.name == name and not key.disabled:
                return key
        raise Forbidden("the API key of this job is gone or disabled")

    def _refresh(self) -> None:
        if self._file is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + CHECK_S
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys, self._broken = self._read(), False
            log.info("read %d API keys again", len(self._keys))
        except BadKeys as error:
            self._broken = True
            log.error("the API keys stay as they were, and no new one is let in: %s", error)

    def _read(self) -> tuple[ApiKey, ...]:
        keys = (*self._fixed, *(read_file(self._file) if self._file else ()))
        for what, values in (("name", (key.name for key in keys)), ("key", (key.sha256 for key in keys))):
            if twice := [value for value, times in Counter(values).items() if times > 1]:
                raise BadKeys(f"two API keys have the same {what}" + (f": {twice[0]}" if what == "name" else ""))
        return keys

    def _file_stamp(self) -> tuple[int, ...]:
        try:
            status = self._file.stat() if self._file else None
        except OSError:
            status = None
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status else ()


def read_file(path: Path) -> list[ApiKey]:
    """The keys of a TOML file: a table for each, named as the key is. Raises BadKeys."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadKeys(f"{path}: {error.strerror}") from None
    except ValueError as error:  # also TOMLDecodeError, which names line and column
        if twice := TWICE.match(str(error)):
            raise BadKeys(f"{path}: [{twice[1]}] is there twice; take the older entry out") from None
        raise BadKeys(f"{path}: {error}") from None
    return [_entry(name, table, f"{path}: [{name}]") for name, table in tables.items()]


def parse_list(text: str) -> list[ApiKey]:
    """The keys of `name:secret,name:sha256,...`. Raises BadKeys, which repeats no secret."""
    keys = []
    for number, part in enumerate(text.split(",") if text.strip() else (), 1):
        name, colon, secret = part.strip().partition(":")
        where = f"LDM_API_KEYS: entry {number}"
        if not colon or not re.fullmatch(NAME, name):
            raise BadKeys(f"{where} must be NAME:KEY, with a name of 1 to 64 letters, digits, '_' or '-'")
        if not re.fullmatch(SHA256, secret):
            if len(secret) < MIN_SECRET_CHARS:
                raise BadKeys(
                    f"{where} ({name}): a key has at least {MIN_SECRET_CHARS} characters; try `ldm key {name}`"
                )
            secret = _sha256(secret.encode())
        keys.append(_entry(name, {"sha256": secret}, where))
    return keys


def new_key(name: str) -> tuple[str, str]:
    """A fresh key, and its entry for the file. Raises BadKeys for a bad name."""
    if not re.fullmatch(NAME, name):
        raise BadKeys(f"the name {name!r} must be 1 to 64 letters, digits, '_' or '-'")
    secret = f"ldm_{secrets.token_urlsafe(32)}"
    return secret, f'[{name}]\nsha256 = "{_sha256(secret.encode())}"\n'


def add_key(name: str, file: Path) -> str:
    """A fresh key, whose entry is put at the end of the file. Raises BadKeys, and the file stays as it was."""
    secret, entry = new_key(name)
    if file.exists() and name in {key.name for key in read_file(file)}:
        raise BadKeys(f"{file} has a key of {name}: choose another name, or take its entry out first")
    try:
        with file.open("a+b") as opened:
            opened.seek(0, 2)
            gap = b"\n" if opened.tell() else b""
            opened.write(gap + entry.encode())
    except OSError as error:
        raise BadKeys(f"{file}: {error.strerror}") from None
    return secret


def _entry(name: str, table: Any, where: str) -> ApiKey:
    if not isinstance(table, dict) or "name" in table:
        raise BadKeys(f"{where} must be a table of a key's settings; its name is the table's")
    try:
        return ApiKey(name=name, **table)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BadKeys(f"{where} {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def _sha256(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
