"""What every route that makes a job does, whatever its request looked like: limits, defaults, the queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastapi import Request

from ldm_core.job_warning import JobWarning
from ldm_core.params import Task
from service.access.auth import ApiKey, Forbidden
from service.access.quota import Idempotency, IdempotencyConflict, Refused, Submitted
from service.broker.broker import Broker
from service.broker.upkeep import NoRoom
from service.http.hang_up import refuse_gone
from service.intake.inputs import Inputs
from service.intake.schemas import JobRequest
from service.intake.submission import prepare
from service.metrics import GatewayMetrics
from service.settings import GatewaySettings
from worker.jobs import JobPayload

Prepare = Callable[..., Awaitable[tuple[JobPayload, Inputs]]]  # called as `prepare` is


@contextmanager
def refusals_counted(metrics: GatewayMetrics, caller: ApiKey) -> Iterator[None]:
    """Counts a submission that a limit or a right refuses."""
    try:
        yield
    except (Forbidden, Refused, IdempotencyConflict) as refusal:
        metrics.refused(refusal.reason, caller.name)
        raise


async def queue_job(
    request: Request, broker: Broker, caller: ApiKey, task: Task, body: JobRequest, *,
    idempotency: Idempotency | None = None, warnings: Sequence[JobWarning] = (), prepare: Prepare = prepare,
    **asked: Any,
) -> Submitted:  # fmt: skip
    """Makes the job of `body`; `warnings` come before its own, `asked` is how it will be answered, as in `prepare`.

    Raises what `prepare` and `Broker.submit` raise, and NoRoom before anything is done for a job.
    """
    if trouble := await broker.trouble():
        raise NoRoom(trouble)
    settings: GatewaySettings = request.app.state.settings
    webhook = settings.webhook_rules.checked(body.webhook) if body.webhook is not None else ""
    payload, inputs = await prepare(
        broker, task, body, caller=caller, request_id=request.state.request_id, max_timeout_s=settings.job_timeout_s,
        **asked,
    )  # fmt: skip
    payload = replace(payload, webhook=webhook, warnings=(*warnings, *payload.warnings))
    async with broker.turn():
        await refuse_gone(request)
        return await broker.submit(payload, inputs.images, quota=caller.quota, idempotency=idempotency)
