"""What every route that makes a job does: the caller's rights and rate, the body, the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from anyio import to_thread
from fastapi import Request

from ldm_core.params import Task
from service.access.auth import ApiKey
from service.access.quota import Idempotency, Submitted
from service.answers.waiting import ResponsePreference
from service.broker.broker import Broker
from service.http.hang_up import refuse_gone
from service.http.memory import LARGE
from service.intake.body import KINDS, read_body, read_fields
from service.intake.idempotency import identify, read_key
from service.intake.pacing import charge, paced
from service.intake.schemas import IMAGE_FIELDS, JobRequest
from service.intake.submission import prepare
from service.metrics import GatewayMetrics
from service.routes.queueing import Prepare, queue_job
from worker.jobs import CONTENT_TYPES

Model = TypeVar("Model", bound=JobRequest)
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


@dataclass(frozen=True, slots=True)
class Recipe(Generic[Model]):
    """How a route makes its jobs: the shape of its body, and what turns that into a job.

    `preference`: the request's, where its answer may be an image.
    """

    task: Task
    body: type[Model]
    preference: ResponsePreference | None = None
    kinds: Sequence[str] = KINDS  # content types of the body
    prepare: Prepare = prepare
    fields: Mapping[str, Any] | None = None  # those of the body, where who has read the request goes on holding it


async def make_job(
    request: Request, caller: ApiKey, broker: Broker, metrics: GatewayMetrics, recipe: Recipe[Model]
) -> tuple[Submitted, Model]:
    """The job of a request, new or made before under its idempotency key, and the request's body without its images.

    Raises whatever `service/errors.py` knows.
    """
    async with paced(broker, caller):
        sent, body = await _submit(request, broker, caller, recipe)
    if recipe.fields is None:
        request.state.body.release()  # `_submit` was the last to hold it
    if sent.replayed:
        return replace(sent, pace=await charge(broker, caller)), body
    payload = sent.view.payload
    metrics.submitted(payload.params.task, payload.model, caller.name)
    return sent, body


async def _submit(request: Request, broker: Broker, caller: ApiKey, recipe: Recipe[Model]) -> tuple[Submitted, Model]:
    """Looks up the idempotency key first, so that a replay succeeds even if the model or the quota has changed."""
    if recipe.fields is None:
        body = await read_body(request, recipe.body, recipe.kinds)
    else:
        body = read_fields(recipe.body, recipe.fields)
    idempotency: Idempotency | None = None
    if (key := read_key(request.headers.getlist("idempotency-key"))) is not None:
        idempotency = await to_thread.run_sync(identify, key, caller.name, recipe.task, body, limiter=LARGE)
        if (known := await broker.remembered(caller.name, idempotency)) is not None:
            return Submitted(view=known, replayed=True), _without_images(body)
    await refuse_gone(request)
    preference = recipe.preference
    if preference is not None and "format" not in body.model_fields_set:
        body.format = preference.format
    sent = await queue_job(
        request, broker, caller, recipe.task, body, idempotency=idempotency, prepare=recipe.prepare,
        one_image=preference is not None and preference.is_image,
        format_accepted=preference is None or preference.accept.takes(CONTENT_TYPES[body.format]),
    )  # fmt: skip
    return sent, _without_images(body)


def _without_images(body: Model) -> Model:
    """Who waits for its job shall not hold megabytes meanwhile."""
    return body.model_copy(update=dict.fromkeys(IMAGE_FIELDS & type(body).model_fields.keys()))


def headers_of(sent: Submitted) -> dict[str, Any]:
    """The headers on every answer to a submission."""
    replay = {"Idempotent-Replay": "true"} if sent.replayed else {}
    return {**replay, **(sent.pace.headers if sent.pace else {})}
