"""`OPTIONS *` asks about the server, and no path of it (RFC 9110, section 9.3.7)."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class Asterisk:
    """Answers it without a key: that there is a server is all that it says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if asked and scope["path"].removeprefix(scope["root_path"]) == "*":
            await Response(status_code=204)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
