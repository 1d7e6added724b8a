"""Jobs: list them, look at one, fetch its images, cancel it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, WithJsonSchema

from service.answers.answers import Job, JobList, damaged_job_of, job_json, job_of
from service.answers.openapi import IMAGE_CONTENT, problems, with_headers
from service.dependencies import BrokerOf, CallerOf, JobOf
from service.errors import Problem
from service.intake.vocabulary import JobStatus
from worker.jobs import JobView

router = APIRouter(prefix="/v1", tags=["jobs"])

# the time of the last job on a page; to clients a string
Cursor = Annotated[float, Field(allow_inf_nan=False), WithJsonSchema({"type": "string"})]
READS_A_JOB: dict[int | str, dict[str, Any]] = {200: {"description": "The job"}, **problems(404, 503)}
READS_AN_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image", "content": IMAGE_CONTENT, **with_headers("ETag", "Cache-Control")},
    304: {"description": "Unchanged", **with_headers("ETag", "Cache-Control")},
    **problems(404, 409, 503),
}


@router.get(
    "/jobs", summary="The caller's own jobs, newest first", response_model_exclude_unset=True,
    responses=problems(422, 503),
)  # fmt: skip
async def list_jobs(
    request: Request,
    broker: BrokerOf,
    caller: CallerOf,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[Cursor | None, Query(description="`next_cursor` of the answer before")] = None,
) -> JobList:
    views, following = await broker.jobs(caller.name, status=status, limit=limit, before=cursor)
    root: str = request.scope["root_path"]
    page = [job_of(job, root) if isinstance(job, JobView) else damaged_job_of(job, root) for job in views]
    return JobList(object="list", data=page, next_cursor=None if following is None else repr(following))


@router.get("/jobs/{job_id}", summary="The job", responses=READS_A_JOB, response_model_exclude_unset=True)
async def get_job(request: Request, job: JobOf) -> Job:
    return job_of(job, request.scope["root_path"])


@router.get(
    "/jobs/{job_id}/images/{index}", summary="An image of a finished job", responses=READS_AN_IMAGE,
    response_class=Response,
)  # fmt: skip
async def get_image(request: Request, job: JobOf, index: str, broker: BrokerOf) -> Response:
    if job.status != "succeeded":
        raise Problem(409, f"The job is {job.status}; it has no images{_later(job)}.")
    image = job.images[int(index)] if index.isdecimal() and len(index) < 4 and int(index) < len(job.images) else None
    if image is None:
        raise Problem(404, f"The job has no image {index[:20]!r}; it has {len(job.images)}, counted from 0.")
    headers = {"ETag": f'"{image.sha256}"', "Cache-Control": "private, immutable"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(status_code=304, headers=headers)
    data = await broker.image(job.payload.id, int(index))
    if data is None:
        raise Problem(404, "The image is no longer stored.")
    return Response(data, media_type=image.content_type, headers=headers)


@router.delete(
    "/jobs/{job_id}", summary="Cancels an open job, deletes the images of a finished one",
    responses={204: {"description": "The job had ended; its images are deleted"}, **READS_A_JOB},
    response_model=Job,
)  # fmt: skip
async def cancel_job(request: Request, job: JobOf, broker: BrokerOf) -> Response:
    after = await broker.cancel(job.payload.id) or job
    if job.finished_at is not None or after.status in {"succeeded", "failed"}:
        return Response(status_code=204)
    return JSONResponse(job_json(after, request.scope["root_path"]))


def _later(job: JobView) -> str:
    return " yet" if job.status in {"queued", "running"} else ""
