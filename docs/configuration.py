"""Writes docs/configuration.md from the settings classes: `python -m docs.configuration`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from service.settings import GatewaySettings
from worker.settings import ServeSettings, WorkerSettings

PAGE = Path(__file__).with_suffix(".md")
GIVEN_BY_SUPERVISOR = {"worker_name"}  # the prefork master gives it to its worker
HEAD = """# Configuration

<!-- Written by `python -m docs.configuration` from the settings classes: change those, not this page. -->

Every setting is an environment variable, read once at the start. A bad value ends the start and is named. An option of
the command line overrules the environment: `ldm serve --port 9000` is `LDM_PORT=9000`.

`ldm serve` passes every setting on to the gateway and the worker that it starts. Switches take `1` and `0`. An empty
path equals none. An unknown `LDM_` name is said at the start, with the name that was perhaps meant. The clients read
`LDM_SERVER` and `LDM_API_KEY`: see [Clients](clients.md).

"""
SECTIONS: Mapping[str, tuple[type[BaseSettings], ...]] = {
    "Shared by all parts": (GatewaySettings, WorkerSettings, ServeSettings),
    "The gateway: `ldm gateway`, `ldm serve`": (GatewaySettings,),
    "The worker: `ldm worker`, `ldm serve`": (WorkerSettings,),
}
SERVE = "under `ldm serve`"
MIB = 2**20


def variable(name: str) -> str:
    """The environment variable of a field."""
    return f"LDM_{name.upper()}"


def _is_shared(name: str) -> bool:
    return name in GatewaySettings.model_fields and name in WorkerSettings.model_fields


def default_of(name: str, field: FieldInfo) -> str:
    """A default as an operator writes it."""
    if name == "data_dir":
        return "`~/.local/share/ldm-service`"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if value is None or value == "":
        return "none"
    if isinstance(value, int) and value >= MIB:
        return f"`{value}` ({value // MIB} MiB)"
    return f"`{int(value) if isinstance(value, bool) else value}`"


def _default(kind: type[BaseSettings], name: str) -> str:
    """The default, and the one of `ldm serve` where it differs."""
    text = default_of(name, kind.model_fields[name])
    if name in ServeSettings.model_fields:
        serve = default_of(name, ServeSettings.model_fields[name])
        if serve != text:
            return f"{text}; {'a private Redis' if serve == 'none' else serve} {SERVE}"
    return text


def _rows(kind: type[BaseSettings], *, shared: bool) -> Iterator[str]:
    for name, field in sorted(kind.model_fields.items()):
        if name not in GIVEN_BY_SUPERVISOR and _is_shared(name) == shared:
            yield f"| `{variable(name)}` | {_default(kind, name)} | {field.description} |"


def page() -> str:
    """The whole page."""
    parts = []
    for title, kinds in SECTIONS.items():
        rows = _rows(kinds[0], shared=len(kinds) > 1)
        parts.append("\n".join([f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |", *rows]))
    return HEAD + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
