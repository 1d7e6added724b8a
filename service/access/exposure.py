"""Warns at the start of a server that everybody can reach."""

from __future__ import annotations

import ipaddress
import logging

log = logging.getLogger(__name__)

OPEN_TO_ALL = (
    "################################################################################",
    "#  NO API KEYS ARE CONFIGURED: whoever reaches {address} may use this server,",
    "#  fill its queue, and see every job. Set LDM_API_KEYS_FILE (`ldm key NAME` makes",
    "#  its entries), or listen on 127.0.0.1 and let a proxy decide who comes in.",
    "#  It answers as localhost, LDM_HOST and the names in LDM_ALLOWED_HOSTS alone.",
    "################################################################################",
)


def warn_if_open(host: str, port: int, *, keys: bool) -> None:
    """Once at the start; `keys`: whether callers need one."""
    if not keys and not is_loopback(host):
        for line in OPEN_TO_ALL:
            log.warning(line.format(address=f"{host}:{port}"))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
