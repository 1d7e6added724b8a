"""From a request to a job: the model, and every default."""

from __future__ import annotations

import math
import secrets
from uuid import uuid4

from anyio import to_thread

from ldm_core.card import ModelCard
from ldm_core.errors import InvalidParameter
from ldm_core.params import MAX_SEED, GenerationParams, Task
from service.access.auth import ApiKey
from service.http.memory import LARGE
from service.intake.inputs import Inputs
from service.intake.job_warnings import job_warnings
from service.intake.model_choice import Catalogue, find_card, find_upscaler
from service.intake.schemas import IMAGE_FIELDS, DrawRequest, JobRequest
from worker.jobs import JobPayload, Pass


async def prepare(
    broker: Catalogue, task: Task, body: JobRequest, *, caller: ApiKey, request_id: str, max_timeout_s: int,
    one_image: bool = False,
    format_accepted: bool = True,
) -> tuple[JobPayload, Inputs]:  # fmt: skip
    """Resolves every default. `one_image` and `format_accepted` are those of `job_warnings`.

    Raises RequestError for what the model does not take, Forbidden, Problem.
    """
    timeout_s = _timeout(body, max_timeout_s)
    card = await find_card(broker, task, body.model, caller)
    _refuse_unused(card, body)
    if any(getattr(body, name, None) for name in IMAGE_FIELDS):
        inputs = await to_thread.run_sync(body.inputs, card, limiter=LARGE)
    else:
        inputs = body.inputs(card)  # without images, waits for no thread
    sampler = card.sampler_for(body.eta) if body.sampler is None else body.sampler
    params = GenerationParams(
        task=task,
        width=inputs.width,
        height=inputs.height,
        steps=card.default_steps if body.steps is None else body.steps,
        guidance_scale=card.guidance_for(task) if body.guidance_scale is None else body.guidance_scale,
        seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        sampler=sampler,
        schedule=card.schedule_for(sampler) if body.schedule is None else body.schedule,
        eta=body.eta,
        n=body.n,
        guidance_start=body.guidance_start,
        guidance_end=body.guidance_end,
        **body.parameters(card),
    )
    card.check(params)
    upscaler = None
    if isinstance(body, DrawRequest) and body.upscale:
        upscaler = await find_upscaler(broker, card, params, caller)
    payload = JobPayload(
        id=str(uuid4()),
        model=card.id,
        params=params,
        upscale=None if upscaler is None else _upscaling(params, upscaler),
        format=body.format,
        output_compression=None if body.format == "png" else body.output_compression,
        priority=body.priority,
        metadata=body.metadata,
        request_id=request_id,
        owner=caller.name,
        weight=caller.weight(body.priority),
        timeout_s=timeout_s,
        inputs=tuple(inputs.images),
        warnings=(
            *job_warnings(card, params, body, one_image=one_image, format_accepted=format_accepted),
            *(upscaler.warnings if upscaler else ()),
        ),
    )
    return payload, inputs


def _upscaling(drawn: GenerationParams, card: ModelCard) -> Pass:
    """The super-resolution of what has been drawn, by the model's defaults: that of /v1/superres with the same seed."""
    params = GenerationParams(
        task="superres",
        width=drawn.width * card.scale,
        height=drawn.height * card.scale,
        steps=card.default_steps,
        guidance_scale=card.guidance_for("superres"),
        seed=drawn.seed,
        prompt=drawn.prompt if card.text else "",
        negative_prompt=drawn.negative_prompt if card.text else "",
        sampler=card.sampler_for(0.0),
        n=drawn.n,
    )
    card.check(params)
    return Pass(model=card.id, params=params)


def _timeout(body: JobRequest, most_s: int) -> int:
    """Whole seconds, because RQ counts in them."""
    if body.timeout is None:
        return most_s
    if body.timeout > most_s:
        raise InvalidParameter("timeout", f"must be at most {most_s} seconds here, got {body.timeout:g}")
    return math.ceil(body.timeout)


def _refuse_unused(card: ModelCard, body: JobRequest) -> None:
    if not card.text and (body.prompt or body.negative_prompt):
        raise InvalidParameter("prompt" if body.prompt else "negative_prompt", f"model {card.id!r} takes no text")
