"""LDM_ variables of the environment that nothing reads: a misspelt setting is said, not passed over."""

from __future__ import annotations

import difflib
import os
from collections.abc import MutableMapping
from typing import NamedTuple

from service.settings import GatewaySettings
from worker.settings import ServeSettings, WorkerSettings

KINDS = (GatewaySettings, ServeSettings, WorkerSettings)
SETTINGS = {f"LDM_{name.upper()}" for kind in KINDS for name in kind.model_fields}
OF_THE_COMMAND = {"LDM_SERVER", "LDM_API_KEY"}  # which no process of the service reads
OF_COMPOSE = {"LDM_BIND", "LDM_KEYS_DIR", "LDM_MODELS_DIR", "LDM_CERTS_DIR"}  # which docker-compose.yml reads
KNOWN = SETTINGS | OF_THE_COMMAND | OF_COMPOSE
OF_TESTS = "LDM_TEST_"
GONE = {"LDM_COMPILE"}


class Unknown(NamedTuple):
    """A variable that is set and not read: what it is, and what to do."""

    name: str
    said: str
    todo: str

    def __str__(self) -> str:
        return f"{self.said}: {self.todo}"


def unknown_settings(environment: MutableMapping[str, str] = os.environ) -> list[Unknown]:
    """All of them, by name."""
    names = (name for name in sorted(environment) if name.startswith("LDM_") and not name.startswith(OF_TESTS))
    return [_unknown(name) for name in names if name not in KNOWN]


def take_unknown_settings(environment: MutableMapping[str, str] = os.environ) -> list[Unknown]:
    """The same, and unsets them: child processes need not say it again."""
    found = unknown_settings(environment)
    for unknown in found:
        del environment[unknown.name]
    return found


def _unknown(name: str) -> Unknown:
    if name in GONE:
        return Unknown(name, f"{name} is no longer a setting", "unset it")
    near = difflib.get_close_matches(name, SETTINGS | OF_THE_COMMAND, 1)
    return Unknown(name, f"{name} is set and unknown", f"did you mean {near[0]}?" if near else "unset it")
