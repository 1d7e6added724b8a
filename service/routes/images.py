"""The bytes of an image."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.access.links import SIGNATURE, end_of
from service.answers.openapi import IMAGE_CONTENT, problems, with_headers
from service.dependencies import BrokerOf, ReadableJobOf
from service.errors import Problem
from worker.jobs import JobView

router = APIRouter(prefix="/v1", tags=["jobs"])

READS_AN_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image", "content": IMAGE_CONTENT, **with_headers("ETag", "Cache-Control")},
    304: {"description": "Unchanged", **with_headers("ETag", "Cache-Control")},
    **problems(404, 409, 503),
}


@router.get(
    "/jobs/{job_id}/images/{index}", summary="An image of a finished job", responses=READS_AN_IMAGE,
    response_class=Response,
)  # fmt: skip
async def get_image(request: Request, job: ReadableJobOf, index: str, broker: BrokerOf) -> Response:
    if job.status != "succeeded":
        raise Problem(409, f"The job is {job.status}; it has no images{_later(job)}.")
    image = job.images[int(index)] if index.isdecimal() and len(index) < 4 and int(index) < len(job.images) else None
    if image is None:
        raise Problem(404, f"The job has no image {index[:20]!r}; it has {len(job.images)}, counted from 0.")
    fresh_s = _fresh_s(request, job)
    headers = {"ETag": f'"{image.sha256}"', "Cache-Control": f"private, max-age={fresh_s}, immutable"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(status_code=304, headers=headers)
    data = await broker.image(job.payload.id, int(index))
    if data is None:
        raise Problem(404, "The image is no longer stored.")
    return Response(data, media_type=image.content_type, headers=headers)


def _fresh_s(request: Request, job: JobView) -> int:
    """For how many seconds the image may be kept: no longer than the job is, or than a signature that opened it."""
    ends = [job.expires_at] if job.expires_at is not None else []
    if request.app.state.keys.configured and (signature := request.query_params.get(SIGNATURE)) is not None:
        ends.append(end_of(signature))
    return max(0, int(min(ends) - job.as_of)) if ends else 0


def _later(job: JobView) -> str:
    return " yet" if job.status in {"queued", "running"} else ""
