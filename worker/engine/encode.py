"""Images to bytes, the same bytes every time. No torch."""

from __future__ import annotations

import io
import json

from PIL import Image

from worker.engine.png import png
from worker.jobs import Format, JobPayload

PREVIEW_SIDE = 128  # pixels


def encode(image: Image.Image, kind: Format, parameters: str | None) -> bytes:
    """Encodes an RGB image; a PNG carries `parameters` in a text chunk of that name."""
    if kind == "png":
        return png(image, None if parameters is None else ("parameters", parameters))
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=92, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=92, method=4)
    return buffer.getvalue()


def encode_preview(image: Image.Image) -> bytes:
    """A small JPEG, some kilobytes."""
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def parameters_of(job: JobPayload, index: int) -> str:
    """The parameters of image `index` as a job of its own, so that both give the same bytes."""
    alone = {**job.params.to_json(), "model": job.model, "seed": job.params.image_seed(index)}
    del alone["n"]
    return json.dumps(alone, sort_keys=True, ensure_ascii=False)
