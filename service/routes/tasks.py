"""One POST for each task: each makes a job."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ldm_core.params import Task
from service.answers.answers import Job
from service.answers.openapi import IMAGE_CONTENT, MADE, job_body, problems, with_headers
from service.answers.waiting import ResponsePreference, answer
from service.dependencies import BrokerOf, CallerOf, LinksOf, MetricsOf
from service.http.hang_up import while_connected
from service.http.negotiation import refuse_encoded
from service.intake.schemas import JobRequest
from service.intake.tasks import REQUESTS
from service.routes.making import HEADERS, Recipe, headers_of, make_job
from service.routes.queueing import refusals_counted

router = APIRouter(prefix="/v1", tags=["jobs"])

MAKES_A_JOB: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Waited for: the finished job, or its first image", "model": Job,
        "content": {"application/json": {}, **IMAGE_CONTENT},
        **with_headers(*MADE, "X-Job-ID", "X-Seed", "X-Job-Warning"),
    },
    202: {"description": "The job, made", **with_headers(*MADE)},
    **problems(400, 406, 408, 410, 413, 415, 422, 429, 503, 504),
}  # fmt: skip


def _add_route(task: Task, body: type[JobRequest]) -> None:
    async def make(
        request: Request, caller: CallerOf, broker: BrokerOf, links: LinksOf, metrics: MetricsOf
    ) -> Response:
        with refusals_counted(metrics, caller):
            caller.check_task(task)
            refuse_encoded(request.headers)
            preference = ResponsePreference.of(request)
            recipe = Recipe(task, body, preference)
            sent, _ = await make_job(request, caller, broker, metrics, recipe)
        return await while_connected(request, answer(broker, sent.view, preference, headers_of(sent), links))

    router.add_api_route(
        f"/{task}", make, methods=["POST"], name=f"create_{task}", status_code=202,
        summary=(body.__doc__ or "").rstrip("."),
        response_model=Job, responses=MAKES_A_JOB, openapi_extra=job_body(task) | {"parameters": HEADERS},
    )  # fmt: skip


for _task, _body in REQUESTS.items():
    _add_route(_task, _body)
