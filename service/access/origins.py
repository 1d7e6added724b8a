"""Hosts and origins, as settings list them and as browsers send them."""

from __future__ import annotations

import ipaddress
import re

HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+"
HOST_AND_PORT = re.compile(rf"({HOST})(?::(\d*))?")
ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://({HOST})(?::([0-9]{{1,5}}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}
MAX_PORT = 65535
UNSPECIFIC = {"", "0.0.0.0", "::"}  # noqa: S104 - as addresses to listen on they name no host


def parse_hosts(text: str) -> frozenset[str]:
    """The names of a comma-separated list, as `host_of` gives them; `*` is any. Raises ValueError."""
    return frozenset(_host(part) for part in _parts(text))


def parse_origins(text: str) -> frozenset[str]:
    """The origins of a comma-separated list, as browsers write them; `*` is any. Raises ValueError."""
    return frozenset(part if part == "*" else _origin(part) for part in _parts(text))


def own_hosts(allowed: str, listens_on: str) -> frozenset[str]:
    """Every name under which the server is reached, but for loopback ones."""
    return parse_hosts(allowed) | ({listens_on.lower()} - UNSPECIFIC)


def host_of(header: str) -> str:
    """The host of a `Host` header without its port: lower case, no brackets, no dot at its end; empty for no host."""
    found = HOST_AND_PORT.fullmatch(header)
    return found[1].strip("[]").lower().removesuffix(".") if found else ""


def is_own(origin: str, host: str) -> bool:
    """Whether a page of that `Origin` came from that `Host`. The scheme is not compared: a proxy may end TLS."""
    parts = ORIGIN.fullmatch(origin)
    asked = HOST_AND_PORT.fullmatch(host)
    if parts is None or asked is None:
        return False
    usual = DEFAULT_PORTS.get(parts[1].lower(), "")
    return (host_of(parts[2]), parts[3] or usual) == (host_of(host), asked[2] or usual)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _host(text: str) -> str:
    bare = text.strip("[]").lower().removesuffix(".")
    if text != "*" and not is_address(bare) and not re.fullmatch(r"[a-z0-9._-]+", bare):
        raise ValueError(f"{text!r} is no host: it takes names or addresses, without scheme and port, or *")
    return bare


def _origin(text: str) -> str:
    found = ORIGIN.fullmatch(text.removesuffix("/"))
    if found is None:
        raise ValueError(f"{text!r} is no origin: it takes such as https://example.com:8443, without a path, or *")
    scheme, host, port = found[1].lower(), found[2].lower(), found[3] and str(int(found[3]))
    if port and not 1 <= int(port) <= MAX_PORT:
        raise ValueError(f"{text!r} is no origin: its port must be 1 to {MAX_PORT}")
    return f"{scheme}://{host}" + (f":{port}" if port and port != DEFAULT_PORTS.get(scheme) else "")


def is_address(host: str) -> bool:
    """Whether it is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
