"""The OpenAPI document as a page. This server serves all of its files, so the page works without internet."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from service.errors import Problem

router = APIRouter(include_in_schema=False)

SWAGGER_UI = "5.35.0"  # of npm's swagger-ui-dist
FOLDER = Path(__file__).resolve().parent.parent / "swagger_ui"
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png",
}  # fmt: skip
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOR_A_YEAR = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    root = request.scope["root_path"]
    script, style, icon = (f"{root}/docs/assets/{name}?{SWAGGER_UI}" for name in ASSETS)
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json", title="ldm-service", swagger_js_url=script, swagger_css_url=style,
        swagger_favicon_url=icon, swagger_ui_parameters={"validatorUrl": None},
    )  # fmt: skip
    (inline,) = INLINE_SCRIPT.findall(bytes(page.body))
    digest = b64encode(hashlib.sha256(inline).digest()).decode()
    page.headers["Content-Security-Policy"] = POLICY.format(digest=digest)
    page.headers["X-Content-Type-Options"] = "nosniff"
    page.headers["Referrer-Policy"] = "no-referrer"
    return page


@router.get("/docs/assets/{name}")
async def get_asset(name: str) -> FileResponse:
    if name not in ASSETS:
        raise Problem(404, "There is no such asset.")
    return FileResponse(FOLDER / name, media_type=ASSETS[name], headers=FOR_A_YEAR)
