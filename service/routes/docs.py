"""The OpenAPI document as a page. This server serves all of its files, so the page works without internet."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from service.errors import Problem

router = APIRouter(include_in_schema=False)

SWAGGER_UI = "5.35.0"  # of npm's swagger-ui-dist
FOLDER = Path(__file__).resolve().parent.parent / "swagger_ui"
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png",
}  # fmt: skip
START = """
const page = document.getElementById("swagger-ui");
SwaggerUIBundle({url: page.dataset.openapi, domNode: page, deepLinking: true, validatorUrl: null});
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ldm-service</title>
<link rel="stylesheet" href="{root}/docs/assets/swagger-ui.css?{version}">
<link rel="icon" href="{root}/docs/assets/favicon-32x32.png?{version}">
</head>
<body>
<div id="swagger-ui" data-openapi="{root}/openapi.json"></div>
<script src="{root}/docs/assets/swagger-ui-bundle.js?{version}"></script>
<script>{start}</script>
</body>
</html>
"""
START_HASH = b64encode(hashlib.sha256(START.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self' 'sha256-{START_HASH}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
FOR_A_YEAR = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


@router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    page = PAGE.format(root=request.scope["root_path"], version=SWAGGER_UI, start=START)
    return HTMLResponse(page, headers=HEADERS)


@router.get("/docs/assets/{name}")
async def get_asset(name: str) -> FileResponse:
    if name not in ASSETS:
        raise Problem(404, "There is no such asset.")
    return FileResponse(FOLDER / name, media_type=ASSETS[name], headers=FOR_A_YEAR)
