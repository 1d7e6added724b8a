"""Whom this server may call: hosts and addresses of webhooks, and the secrets that sign what they are told."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ldm_core.errors import InvalidParameter
from service.access.origins import DEFAULT_PORTS, MAX_PORT, is_address

MAX_URL_CHARS = 2048
MAX_SECRETS = 2  # the present one and, while receivers change over, the one before
SECRET_BYTES = range(24, 65)  # as Standard Webhooks has it
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
NAME = rf"{LABEL}(?:\.{LABEL})*"
ENTRY = re.compile(rf"(\*\.)?({NAME}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?")
URL = re.compile(
    rf"(https?)://({NAME}\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?([/?][\x21\x22\x24-\x7e]*)?", re.IGNORECASE
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv6 address of an IPv4 one, which is in its last four bytes


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """Which webhooks a client may name. `hosts`: host and port as in `allows`; none: there are no webhooks.

    `private`: addresses that are not public, and http, are allowed too.
    """

    hosts: frozenset[tuple[str, str]] = frozenset()
    private: bool = False

    def checked(self, url: str) -> str:
        """The URL with its host in lower case and no port that goes without saying. Raises InvalidParameter."""
        if not self.hosts:
            raise InvalidParameter("webhook", "no host is allowed here: the operator lists them in LDM_WEBHOOK_HOSTS")
        found = URL.fullmatch(url)
        if found is None or len(url) > MAX_URL_CHARS:
            raise InvalidParameter("webhook", _why_not(url))
        scheme, host, target = found[1].lower(), found[2].lower().removesuffix("."), found[4] or "/"
        port = str(int(found[3] or DEFAULT_PORTS[scheme]))
        if scheme == "http" and not self.private:
            raise InvalidParameter("webhook", "must be an https:// URL; http needs LDM_WEBHOOK_PRIVATE=1")
        if not 1 <= int(port) <= MAX_PORT:
            raise InvalidParameter("webhook", f"its port must be 1 to {MAX_PORT}")
        if not self.allows(scheme, host, port):
            raise InvalidParameter("webhook", f"{host[:80]}:{port} is not allowed here: LDM_WEBHOOK_HOSTS has it not")
        shown = host if port == DEFAULT_PORTS[scheme] else f"{host}:{port}"
        return f"{scheme}://{shown}{target if target[0] == '/' else '/' + target}"

    def allows(self, scheme: str, host: str, port: str) -> bool:
        """An entry without a port is for the scheme's own; `*.example.com` is any name below it, and not itself."""
        parents = [".".join(host.split(".")[i:]) for i in range(1, host.count(".") + 1)]
        names = [host, *(f"*.{parent}" for parent in parents)]
        ports = {port, ""} if port == DEFAULT_PORTS[scheme] else {port}
        return any((name, port) in self.hosts for name in names for port in ports)

    def refusal(self, address: str) -> str:
        """Why nothing may be sent to an IP address, or an empty string."""
        return "" if self.private or is_public(address) else f"its address {address} is not a public one"


def _why_not(url: str) -> str:
    """What is wrong with a URL that does not have the form of one; it may hold secrets, so nothing of it is said."""
    if len(url) > MAX_URL_CHARS:
        return f"must be at most {MAX_URL_CHARS} characters"
    if not url.lower().startswith(("https://", "http://")):
        return "must be an https:// URL"
    if "@" in re.split(r"[/?#]", url.split("://", 1)[1])[0]:
        return "must have no user name or password in it"
    if "#" in url:
        return "must have no fragment (#…)"
    return "must be a URL in ASCII, of a host and perhaps a port, path and query; other letters are percent-encoded"


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL: its path and query may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_public(address: str) -> bool:
    """Whether an IP address is one of the whole internet, and so is the one that is inside it, if there is one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def parse_webhook_hosts(text: str) -> frozenset[tuple[str, str]]:
    """The hosts of a comma-separated list with their ports, where those are given. Raises ValueError."""
    return frozenset(_entry(part.strip()) for part in text.split(",") if part.strip())


def _entry(text: str) -> tuple[str, str]:
    found = ENTRY.fullmatch(text.removesuffix("."))
    bare = found[2].strip("[]") if found else ""
    if found is None or (found[1] and is_address(bare)) or (found[2] != bare and not is_address(bare)):
        raise ValueError(f"{text!r} is no host: it takes such as hooks.example.com, *.example.com or localhost:9000")
    if found[3] and not 1 <= int(found[3]) <= MAX_PORT:
        raise ValueError(f"{text!r} is no host: its port must be 1 to {MAX_PORT}")
    return ((found[1] or "") + found[2]).lower(), str(int(found[3])) if found[3] else ""


def parse_webhook_secrets(text: str) -> list[str]:
    """One or two secrets, separated by a comma. Raises ValueError, which repeats nothing of them."""
    secrets = [part.strip() for part in text.split(",") if part.strip()]
    if len(secrets) > MAX_SECRETS:
        raise ValueError(f"has {len(secrets)} secrets; it takes {MAX_SECRETS} at most, the newer one first")
    for secret in secrets:
        _check_secret(secret)
    return secrets


def _check_secret(secret: str) -> None:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith("whsec_") or len(key) not in SECRET_BYTES:
        raise ValueError("must be whsec_ and base64 of 24 to 64 random bytes, such as whsec_$(openssl rand -base64 32)")
