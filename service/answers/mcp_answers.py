"""What tools answer assistants with: images, what is to be said of them, and errors."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence

from mcp_types import ContentBlock, ImageContent, TextContent
from PIL import Image

from service.errors import Problem
from worker.jobs import JobView

# of base64 in one answer: clients refuse a message of more than 1 MiB
MAX_CHARS = 900 * 2**10
XMP = "xmp"


def content_of(view: JobView, images: Sequence[bytes], urls: Sequence[str]) -> list[ContentBlock]:
    """A finished job's images, as copies where they are too large together, and a text about them."""
    share = MAX_CHARS // len(images) * 3 // 4
    shown: list[ContentBlock] = []
    lines = [f"Job {view.payload.id}, {view.payload.params.task} by model {view.payload.model}."]
    for i, (data, image, url) in enumerate(zip(images, view.images, urls, strict=True)):
        line = f"Image {i}: seed {image.seed}, {image.width}x{image.height}, {image.content_type}, {url}"
        kind = image.content_type
        if len(data) > share:
            data, kind = _small_copy(data, share), "image/webp"
            line += " (what is shown here is a smaller copy)"
        shown.append(ImageContent(data=b64encode(data).decode(), mime_type=kind))
        lines.append(line)
    lines += [f"Warning {warning.code}: {warning.detail}" for warning in view.warnings]
    return [*shown, TextContent(text="\n".join(lines))]


def _small_copy(data: bytes, most: int) -> bytes:
    """A WebP of at most `most` bytes, with the XMP of `data`: smaller in pixels too where it must be."""
    with Image.open(io.BytesIO(data)) as opened:
        image, about = opened.convert("RGB"), opened.info.get(XMP, b"")
    while True:
        copy = io.BytesIO()
        image.save(copy, "WEBP", quality=85, method=4, xmp=about)
        if copy.tell() <= most or min(image.size) < 2:
            return copy.getvalue()
        image = image.reduce(2)


def told(problem: Problem) -> str:
    """A problem as a sentence, with every other field at fault, and when to try again."""
    lines = [problem.detail, *(f"{pointer[1:]}: {detail}" for pointer, detail in problem.errors[1:])]
    if after := problem.headers.get("Retry-After"):
        lines.append(f"Try again in {after} s.")
    return "\n".join(lines)
