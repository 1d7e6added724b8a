"""One POST for each task: each makes a job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ldm_core.params import Task
from service.access.auth import ApiKey
from service.access.quota import Idempotency, Submitted
from service.answers.answers import Job
from service.answers.openapi import IMAGE_CONTENT, MADE, job_body, problems, with_headers
from service.answers.waiting import ResponsePreference, answer
from service.broker.broker import Broker
from service.dependencies import BrokerOf, CallerOf, LinksOf, MetricsOf
from service.http.hang_up import refuse_gone, while_connected
from service.http.memory import LARGE
from service.http.negotiation import refuse_encoded
from service.intake.body import read_body
from service.intake.idempotency import identify, read_key
from service.intake.pacing import charge, paced
from service.intake.schemas import REQUESTS
from service.routes.queueing import queue_job, refusals_counted
from worker.jobs import CONTENT_TYPES

router = APIRouter(prefix="/v1", tags=["jobs"])

TASKS: dict[Task, str] = {
    "txt2img": "A prompt to an image, or an image and a prompt to another",
    "inpaint": "An image with a hole to a whole one",
    "superres": "A small image to a large one",
    "class2img": "A class to an image",
    "semantic2img": "A semantic map to an image",
    "layout2img": "Objects and their places to an image",
    "unconditional": "An image of what the model was trained on",
}
MAKES_A_JOB: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Waited for: the finished job, or its first image", "model": Job,
        "content": {"application/json": {}, **IMAGE_CONTENT},
        **with_headers(*MADE, "X-Job-ID", "X-Seed", "X-Job-Warning"),
    },
    202: {"description": "The job, made", **with_headers(*MADE)},
    **problems(400, 406, 408, 410, 413, 415, 422, 429, 503, 504),
}  # fmt: skip
HEADERS = [
    {
        "name": "Idempotency-Key", "in": "header", "required": False,
        "description": "the same key and body within 24 hours give the same job again",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
    },
    {
        "name": "Prefer", "in": "header", "required": False, "description": "`wait=N`: N seconds, at most 120",
        "schema": {"type": "string"}, "example": "wait=30",
    },
]  # fmt: skip


def _add_route(task: Task, summary: str) -> None:
    async def make(
        request: Request, caller: CallerOf, broker: BrokerOf, links: LinksOf, metrics: MetricsOf
    ) -> Response:
        with refusals_counted(metrics, caller):
            caller.check_task(task)
            refuse_encoded(request.headers)
            preference = ResponsePreference.of(request)
            async with paced(broker, caller):
                sent = await _submit(request, broker, caller, task, preference)
        request.state.body.release()  # `_submit` was the last to hold it
        if sent.replayed:
            sent = replace(sent, pace=await charge(broker, caller))
        else:
            metrics.submitted(task, sent.view.payload.model, caller.name)
        return await while_connected(request, answer(broker, sent.view, preference, _headers(sent), links))

    router.add_api_route(
        f"/{task}", make, methods=["POST"], name=f"create_{task}", status_code=202, summary=summary,
        response_model=Job, responses=MAKES_A_JOB, openapi_extra=job_body(task) | {"parameters": HEADERS},
    )  # fmt: skip


for _task, _summary in TASKS.items():
    _add_route(_task, _summary)


async def _submit(
    request: Request, broker: Broker, caller: ApiKey, task: Task, preference: ResponsePreference
) -> Submitted:
    """Looks up the idempotency key first, so that a replay succeeds even if the model or the quota has changed."""
    body = await read_body(request, REQUESTS[task])
    idempotency: Idempotency | None = None
    if (key := read_key(request.headers.getlist("idempotency-key"))) is not None:
        idempotency = await to_thread.run_sync(identify, key, caller.name, task, body, limiter=LARGE)
        if (known := await broker.remembered(caller.name, idempotency)) is not None:
            return Submitted(view=known, replayed=True)
    await refuse_gone(request)
    if "format" not in body.model_fields_set:
        body.format = preference.format
    return await queue_job(
        request, broker, caller, task, body, idempotency=idempotency, one_image=preference.is_image,
        format_accepted=preference.accept.takes(CONTENT_TYPES[body.format]),
    )  # fmt: skip


def _headers(sent: Submitted) -> dict[str, Any]:
    replay = {"Idempotent-Replay": "true"} if sent.replayed else {}
    return {**replay, **(sent.pace.headers if sent.pace else {})}
