"""Jobs: list them, look at one, cancel it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import Field, WithJsonSchema

from service.answers.answers import Job, JobList, damaged_job_of, job_json, job_of
from service.answers.openapi import problems
from service.dependencies import BrokerOf, CallerOf, JobOf, LinksOf
from service.intake.vocabulary import JobStatus
from worker.jobs import JobView

router = APIRouter(prefix="/v1", tags=["jobs"])

# the time of the last job on a page; to clients a string
Cursor = Annotated[float, Field(allow_inf_nan=False), WithJsonSchema({"type": "string"})]
READS_A_JOB: dict[int | str, dict[str, Any]] = {200: {"description": "The job"}, **problems(404, 503)}


@router.get(
    "/jobs", summary="The caller's own jobs, newest first", response_model_exclude_unset=True,
    responses=problems(422, 503),
)  # fmt: skip
async def list_jobs(
    broker: BrokerOf,
    caller: CallerOf,
    links: LinksOf,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[Cursor | None, Query(description="`next_cursor` of the answer before")] = None,
) -> JobList:
    views, following = await broker.jobs(caller.name, status=status, limit=limit, before=cursor)
    page = [job_of(job, links) if isinstance(job, JobView) else damaged_job_of(job, links) for job in views]
    return JobList(object="list", data=page, next_cursor=None if following is None else repr(following))


@router.get("/jobs/{job_id}", summary="The job", responses=READS_A_JOB, response_model_exclude_unset=True)
async def get_job(job: JobOf, links: LinksOf) -> Job:
    return job_of(job, links)


@router.delete(
    "/jobs/{job_id}", summary="Cancels an open job, deletes the images of a finished one",
    responses={204: {"description": "The job had ended; its images are deleted"}, **READS_A_JOB},
    response_model=Job,
)  # fmt: skip
async def cancel_job(job: JobOf, broker: BrokerOf, links: LinksOf) -> Response:
    after = await broker.cancel(job.payload.id) or job
    if job.finished_at is not None or after.status in {"succeeded", "failed"}:
        return Response(status_code=204)
    return JSONResponse(job_json(after, links))
