"""Jobs: list them, look at one, fetch its pictures, cancel it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from service.cursor import decode_cursor, encode_cursor
from service.dependencies import BrokerOf, CallerOf, JobOf
from service.errors import Problem
from service.openapi import IMAGE_CONTENT, JOB_CONTENT, problems
from service.schemas import job_json
from worker.jobs import JobView, Status

router = APIRouter(prefix="/v1", tags=["jobs"])

READS_A_JOB = {200: {"description": "The job", "content": JOB_CONTENT}, **problems(404, 503)}


@router.get("/jobs", summary="The caller's own jobs, newest first", responses=problems(422, 503))
async def list_jobs(
    broker: BrokerOf,
    caller: CallerOf,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the answer before")] = None,
) -> JSONResponse:
    before = None if cursor is None else decode_cursor(cursor)
    views, following = await broker.jobs(caller.name, status=status, limit=limit, before=before)
    page = [job_json(view) for view in views]
    next_cursor = None if following is None else encode_cursor(following)
    return JSONResponse({"object": "list", "data": page, "next_cursor": next_cursor})


@router.get("/jobs/{job_id}", summary="The job", responses=READS_A_JOB)
async def get_job(job: JobOf) -> JSONResponse:
    return JSONResponse(job_json(job))


@router.get(
    "/jobs/{job_id}/images/{index}", summary="A picture of a finished job",
    responses={200: {"content": IMAGE_CONTENT}, 304: {"description": "Unchanged"}, **problems(404, 409, 503)},
    response_class=Response,
)  # fmt: skip
async def get_image(request: Request, job: JobOf, index: str, broker: BrokerOf) -> Response:
    if job.status != "succeeded":
        raise Problem(409, f"The job is {job.status}; it has no pictures{_later(job)}.")
    image = job.images[int(index)] if index.isdecimal() and len(index) < 4 and int(index) < len(job.images) else None
    if image is None:
        raise Problem(404, f"The job has no image {index[:20]!r}; it has {len(job.images)}, counted from 0.")
    headers = {"ETag": f'"{image.sha256}"', "Cache-Control": "private, immutable"}
    if image.sha256 in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await broker.image(job.payload.id, int(index))
    if data is None:
        raise Problem(404, "The picture is no longer stored.")
    return Response(data, media_type=image.content_type, headers=headers)


@router.delete(
    "/jobs/{job_id}", summary="Cancels an open job, deletes the pictures of a finished one",
    responses={204: {"description": "The job had ended; its pictures are deleted"}, **READS_A_JOB},
)  # fmt: skip
async def cancel_job(job: JobOf, broker: BrokerOf) -> Response:
    after = await broker.cancel(job.payload.id) or job
    if job.finished_at is not None or after.status in {"succeeded", "failed"}:
        return Response(status_code=204)
    return JSONResponse(job_json(after))


def _later(job: JobView) -> str:
    return " yet" if job.status in {"queued", "running"} else ""
