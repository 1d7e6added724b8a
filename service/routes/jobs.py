"""Jobs: make one, look at it, fetch its pictures, cancel it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ldm_core.params import Task
from service.body import read_body
from service.broker import Broker
from service.dependencies import BrokerOf, MetricsOf
from service.errors import Problem
from service.metrics import GatewayMetrics
from service.openapi import IMAGE_CONTENT, JOB_CONTENT, job_body, problems
from service.schemas import REQUESTS, job_json
from service.submission import prepare
from service.waiting import Wish, answer
from worker.jobs import JobView

router = APIRouter(prefix="/v1", tags=["jobs"])

MAKES_A_JOB = {
    200: {"description": "Waited for: the finished job, or its picture", "content": JOB_CONTENT | IMAGE_CONTENT},
    202: {"description": "The job, made", "content": JOB_CONTENT},
    **problems(400, 408, 413, 415, 422, 429, 503, 504),
}
READS_A_JOB = {200: {"description": "The job", "content": JOB_CONTENT}, **problems(404, 503)}


TASKS: dict[Task, str] = {
    "txt2img": "A prompt to a picture, or a picture and a prompt to another",
    "inpaint": "A picture with a hole to a whole one",
    "superres": "A small picture to a large one",
    "class2img": "A class to a picture",
    "semantic2img": "A semantic map to a picture",
    "layout2img": "Things and their places to a picture",
    "unconditional": "A picture of what the model was trained on",
}


def _add_route(task: Task, summary: str) -> None:
    async def make(request: Request, broker: BrokerOf, metrics: MetricsOf) -> Response:
        return await _make(request, broker, metrics, task)

    router.add_api_route(
        f"/{task}", make, methods=["POST"], name=task, status_code=202, summary=summary, responses=MAKES_A_JOB,
        openapi_extra=job_body(task),
    )  # fmt: skip


for _task, _summary in TASKS.items():
    _add_route(_task, _summary)


@router.get("/jobs/{job_id}", summary="The job", responses=READS_A_JOB)
async def get_job(job_id: str, broker: BrokerOf) -> JSONResponse:
    return JSONResponse(job_json(await _found(broker, job_id)))


@router.get(
    "/jobs/{job_id}/images/{index}", summary="A picture of a finished job",
    responses={200: {"content": IMAGE_CONTENT}, 304: {"description": "Unchanged"}, **problems(404, 409, 503)},
    response_class=Response,
)  # fmt: skip
async def get_image(request: Request, job_id: str, index: str, broker: BrokerOf) -> Response:
    view = await _found(broker, job_id)
    if view.status != "succeeded":
        raise Problem(409, f"The job is {view.status}; it has no pictures{_later(view)}.")
    image = view.images[int(index)] if index.isdecimal() and len(index) < 4 and int(index) < len(view.images) else None
    if image is None:
        raise Problem(404, f"The job has no image {index[:20]!r}; it has {len(view.images)}, counted from 0.")
    headers = {"ETag": f'"{image.sha256}"', "Cache-Control": "private, immutable"}
    if image.sha256 in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await broker.image(job_id, int(index))
    if data is None:
        raise Problem(404, "The picture is no longer stored.")
    return Response(data, media_type=image.content_type, headers=headers)


@router.delete(
    "/jobs/{job_id}", summary="Cancels an open job, deletes the pictures of a finished one",
    responses={204: {"description": "The job had ended; its pictures are deleted"}, **READS_A_JOB},
)  # fmt: skip
async def cancel_job(job_id: str, broker: BrokerOf) -> Response:
    before = await _found(broker, job_id)
    after = await broker.cancel(job_id) or before
    if before.finished_at is not None or after.status in {"succeeded", "failed"}:
        return Response(status_code=204)
    return JSONResponse(job_json(after))


async def _make(request: Request, broker: Broker, metrics: GatewayMetrics, task: Task) -> Response:
    wish = Wish.of(request)
    body = await read_body(request, REQUESTS[task])
    payload, inputs = await prepare(broker, task, body, request.state.request_id)
    view = await broker.submit(payload, inputs.pictures)
    metrics.submitted(task, payload.model)
    return await answer(broker, view, wish)


async def _found(broker: Broker, job_id: str) -> JobView:
    view = await broker.job(job_id)
    if view is None:
        raise Problem(404, "There is no such job; it is unknown or has expired.")
    return view


def _later(view: JobView) -> str:
    return " yet" if view.status in {"queued", "running"} else ""
