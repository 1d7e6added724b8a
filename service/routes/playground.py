"""The page at `/`: files as they lie in `service/playground`, which load nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.errors import Problem

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).resolve().parent.parent / "playground"
TYPES = {
    ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".txt": "text/plain",
}  # fmt: skip
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
SAFE = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file in memory."""

    data: bytes
    media_type: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 for who has it. Browsers ask each time: modules of two versions never meet on a page."""
        tag = f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'
        headers = {**SAFE, "ETag": tag, "Cache-Control": "no-cache"}
        known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(self.data, media_type=self.media_type, headers=headers)


ASSETS = {
    path.relative_to(FOLDER).as_posix(): Asset(path.read_bytes(), TYPES[path.suffix])
    for path in sorted(FOLDER.rglob("*"))
    if path.suffix in TYPES
}
PAGE = (FOLDER / "index.html").read_text()


@router.get("/")
async def get_page(request: Request) -> Response:
    page = PAGE.replace("{root}", request.scope["root_path"])  # letters, digits and ._~-: see `settings.ROOT_PATH`
    return Asset(page.encode(), "text/html").answer(request)


@router.get("/playground/{name:path}")
async def get_asset(request: Request, name: str) -> Response:
    if name not in ASSETS:
        raise Problem(404, "There is no such asset.")
    return ASSETS[name].answer(request)
