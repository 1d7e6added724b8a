"""Keeps web pages of other sites away from a server without API keys: by `Host`, `Origin` and `Sec-Fetch-Site`.

A browser sends requests to any address that a page names, also to one that only this machine reaches. `Host` shows a
name that was rebound to this address (DNS rebinding); the other two show a page of another site.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.exposure import is_loopback
from service.access.origins import host_of, is_address, is_own
from service.errors import Problem, problem_response

SAFE = {"GET", "HEAD", "OPTIONS"}
OWN_SITE = {"same-origin", "none"}  # of `Sec-Fetch-Site`; "none": no page at all, such as the address bar
# Probes and Prometheus come with the address of a pod or container, which no setting can name; a DNS name can be bound
# to another address, an address cannot.
PROBED = {"/healthz", "/readyz", "/metrics"}


class SiteGuard:
    """Refuses requests for foreign hosts, and requests by which another site's page would change something.

    Starlette's TrustedHostMiddleware knows neither `Origin` nor probes, and takes a Host that its target contradicts.
    `hosts`: the names besides loopback ones, None for any; `origins`: whose pages may do everything, None for any.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, origins: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = None if hosts is None or "*" in hosts else hosts
        self._origins = None if origins is None or "*" in origins else origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(scope)) is not None:
            answer = problem_response(problem, scope["path"], scope["state"]["request_id"])
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host")  # no browser leaves it out
        if host is not None and not self._answers_to(host_of(host), scope["path"].removeprefix(scope["root_path"])):
            detail = f"This server does not answer as {host[:80]!r}; LDM_ALLOWED_HOSTS names the hosts it answers as."
            return Problem(421, detail)
        if host is not None and scope["state"].get("authority", host).lower() != host.strip().lower():
            return Problem(400, "The request's target and its Host differ.")
        if scope["method"] not in SAFE and self._is_foreign(headers):
            detail = "A page of another site may not do this here; LDM_CORS_ORIGINS names the origins that may."
            return Problem(403, detail)
        return None

    def _answers_to(self, host: str, path: str) -> bool:
        return (
            self._hosts is None
            or host in self._hosts
            or is_loopback(host)
            or (path in PROBED and is_address(host))
        )  # fmt: skip

    def _is_foreign(self, headers: Headers) -> bool:
        if self._origins is None:
            return False
        origins = headers.getlist("origin")
        if origins and self._origins.issuperset(origin.lower() for origin in origins):
            return False
        other_site = headers.get("sec-fetch-site", "none") not in OWN_SITE
        return other_site or not all(is_own(origin, headers.get("host", "")) for origin in origins)
