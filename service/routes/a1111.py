"""AUTOMATIC1111's API, translated onto the same jobs. Outside the OpenAPI: that API's own document describes it."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from ldm_core.errors import InvalidImage, RequestError
from ldm_core.job_warning import JobWarning
from ldm_core.params import MAX_IMAGES, Task
from service.access.auth import ApiKey
from service.access.quota import Idempotency, Submitted
from service.answers.infotext import infotext_of, time_stamp, web_ui_info, web_ui_warnings
from service.answers.waiting import stored_image, succeeded
from service.broker.broker import Broker
from service.dependencies import BrokerOf, MetricsOf, PasswordCallerOf, password_caller_of
from service.errors import Problem
from service.http.hang_up import while_connected
from service.http.memory import LARGE
from service.http.negotiation import refuse_encoded
from service.intake.body import read_json
from service.intake.idempotency import identified
from service.intake.inputs import NOT_AN_IMAGE
from service.intake.model_choice import find_card
from service.intake.pacing import charge, paced
from service.intake.repainting import finished_png
from service.intake.schemas import JobRequest
from service.intake.strict_json import field_problem
from service.intake.web_ui import FIELDS, MARK, Afterwards, EnlargeRequest, enlarging, read_drawing, read_enlarging
from service.metrics import GatewayMetrics
from service.routes.making import headers_of
from service.routes.queueing import queue_job, refusals_counted
from service.settings import GatewaySettings
from worker.jobs import JobView, Status

router = APIRouter(prefix="/sdapi/v1", include_in_schema=False, dependencies=[Depends(password_caller_of)])

MOST_OPEN = 100  # of a caller's jobs that are looked at
OPEN: tuple[Status, ...] = ("running", "queued")
Find = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # of a body: the images, by where they stand in it


@router.post("/txt2img")
async def txt2img(request: Request, caller: PasswordCallerOf, broker: BrokerOf, metrics: MetricsOf) -> Response:
    return await _draw(request, caller, broker, metrics, with_image=False)


@router.post("/img2img")
async def img2img(request: Request, caller: PasswordCallerOf, broker: BrokerOf, metrics: MetricsOf) -> Response:
    return await _draw(request, caller, broker, metrics, with_image=True)


async def _draw(
    request: Request, caller: ApiKey, broker: Broker, metrics: GatewayMetrics, *, with_image: bool
) -> Response:
    with refusals_counted(metrics, caller):
        async with paced(broker, caller):
            sent, after = await _submit(request, caller, broker, metrics, with_image=with_image)
    if after.repainting is None:
        request.state.body.release()
    return await while_connected(request, _drawn(broker, sent, after, _patience(request)))


async def _submit(
    request: Request, caller: ApiKey, broker: Broker, metrics: GatewayMetrics, *, with_image: bool
) -> tuple[Submitted, Afterwards]:
    refuse_encoded(request.headers)
    data, model = await read_json(request), await broker.chosen_model(caller.name)
    idempotency = await identified(request, caller.name, data)
    with _in_their_names(FIELDS):
        read = partial(read_drawing, data, with_image=with_image, model=model)
        drawing = await to_thread.run_sync(read, limiter=LARGE) if with_image else read()
        asked = (drawing.task, drawing.body, drawing.warnings)
        return await _queue(request, caller, broker, metrics, *asked, idempotency), drawing.after


async def _queue(
    request: Request, caller: ApiKey, broker: Broker, metrics: GatewayMetrics, task: Task, body: JobRequest,
    warnings: Sequence[JobWarning], idempotency: Idempotency | None,
) -> Submitted:  # fmt: skip
    caller.check_task(task)
    if idempotency is not None and (known := await broker.remembered(caller.name, idempotency)) is not None:
        return Submitted(view=known, replayed=True, pace=await charge(broker, caller))
    sent = await queue_job(request, broker, caller, task, body, warnings=warnings, idempotency=idempotency)
    if not sent.replayed:
        metrics.submitted(task, sent.view.payload.model, caller.name)
    return sent


async def _drawn(broker: Broker, sent: Submitted, after: Afterwards, patience_s: float) -> Response:
    view = await succeeded(broker, sent.view, patience_s)
    put_back = after.repainting.finished if after.repainting else None
    texts = [infotext_of(view, i, after.fields) for i in range(len(view.images))]
    images = [
        await to_thread.run_sync(finished_png, await stored_image(broker, view, i), text, put_back, limiter=LARGE)
        for i, text in enumerate(texts if after.send_images else ())
    ]
    return JSONResponse({
        "images": [b64encode(data).decode() for data in images],
        "parameters": {**after.parameters, **dict.fromkeys(after.parameters.keys() & {"init_images", "mask"})},
        "info": json.dumps(web_ui_info(view, after.batch_size, texts), ensure_ascii=False),
    }, headers=headers_of(sent))  # fmt: skip


@router.post("/extra-single-image")
async def extra_single_image(
    request: Request, caller: PasswordCallerOf, broker: BrokerOf, metrics: MetricsOf
) -> Response:
    told, images, headers = await _enlarge(request, caller, broker, metrics, lambda data: {"image": data.get("image")})
    return JSONResponse({"html_info": told, "image": images[0]}, headers=headers)


@router.post("/extra-batch-images")
async def extra_batch_images(
    request: Request, caller: PasswordCallerOf, broker: BrokerOf, metrics: MetricsOf
) -> Response:
    told, images, headers = await _enlarge(request, caller, broker, metrics, _listed_images)
    return JSONResponse({"html_info": told, "images": images}, headers=headers)


def _listed_images(data: Mapping[str, Any]) -> dict[str, Any]:
    found = data.get("imageList")
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_IMAGES:
        raise field_problem("imageList", f"must be 1 to {MAX_IMAGES} objects with `data`")
    return {f"imageList/{i}/data": each.get("data") if isinstance(each, dict) else None for i, each in enumerate(found)}


async def _enlarge(
    request: Request, caller: ApiKey, broker: Broker, metrics: GatewayMetrics, find: Find
) -> tuple[str, list[str], dict[str, Any]]:
    """What there is to say as HTML, images in base64, headers: a job for each image, and none if one is refused."""
    made: list[Submitted] = []
    with refusals_counted(metrics, caller):
        async with paced(broker, caller):
            try:
                asked, scale = await _submit_enlarging(request, caller, broker, metrics, find, made)
            except BaseException:
                for sent in made:  # of several, none was made before: they take no idempotency key
                    await broker.cancel(sent.view.payload.id)
                raise
    request.state.body.release()
    return await while_connected(request, _enlarged(broker, made, asked, scale, _patience(request)))


async def _submit_enlarging(
    request: Request, caller: ApiKey, broker: Broker, metrics: GatewayMetrics, find: Find, made: list[Submitted]
) -> tuple[EnlargeRequest, int]:
    refuse_encoded(request.headers)
    data = await read_json(request)
    asked, warnings = read_enlarging(data)
    served = {model.card.id for model in await broker.models(recent=True) if "superres" in model.card.tasks}
    card = await find_card(broker, "superres", asked.upscaler_1 if asked.upscaler_1 in served else None, caller)
    if asked.upscaler_1 != card.id:
        warnings.append(JobWarning("upscaler_chosen", f"Enlarged by {card.id!r}; /upscalers lists all.", "/upscaler_1"))
    images = find(data)
    idempotency = await identified(request, caller.name, data, jobs=len(images))
    for field, image in images.items():
        with _in_their_names({"image": field}):
            if not isinstance(image, str):
                raise InvalidImage(field, NOT_AN_IMAGE)
            body = await to_thread.run_sync(enlarging, image, field, card, asked, limiter=LARGE)
            made.append(await _queue(request, caller, broker, metrics, "superres", body, warnings, idempotency))
    return asked, card.scale


async def _enlarged(
    broker: Broker, made: Sequence[Submitted], asked: EnlargeRequest, scale: int, patience_s: float
) -> tuple[str, list[str], dict[str, Any]]:
    images: list[str] = []
    told: dict[str, None] = {}
    for sent in made:
        ended = await succeeded(broker, sent.view, patience_s)
        data = await stored_image(broker, ended, 0)
        images.append(await to_thread.run_sync(_at_its_size, data, asked, scale, infotext_of(ended, 0), limiter=LARGE))
        told |= {html.escape(warning["detail"]): None for warning in web_ui_warnings(ended)}
    return "".join(f"<p>{line}</p>" for line in told), images, headers_of(made[0])


def _at_its_size(data: bytes, asked: EnlargeRequest, scale: int, text: str) -> str:
    return b64encode(finished_png(data, text, lambda image: asked.finished(image, scale))).decode()


@router.get("/progress")
async def get_progress(caller: PasswordCallerOf, broker: BrokerOf, skip_current_image: bool = False) -> dict[str, Any]:
    jobs = await _open_jobs(broker, caller)
    first = jobs[0] if jobs else None
    running = first if first and first.status == "running" else None
    preview = await broker.preview(running.payload.id) if running and not skip_current_image else b""
    elapsed = await broker.now() - running.started_at if running and running.started_at else 0.0
    state = {
        "skipped": False, "interrupted": False, "stopping_generation": False, "job": first.payload.id if first else "",
        "job_count": len(jobs), "job_timestamp": time_stamp(first) if first else "0", "job_no": 0,
        "sampling_step": first.step if first else 0, "sampling_steps": first.steps if first else 0,
    }  # fmt: skip
    done = running.progress if running else 0.0
    return {
        "progress": done, "eta_relative": max(0.0, elapsed / done - elapsed) if done else 0.0, "state": state,
        "current_image": b64encode(preview).decode() if preview else None, "textinfo": None,
    }  # fmt: skip


@router.post("/interrupt")
async def interrupt(caller: PasswordCallerOf, broker: BrokerOf) -> dict[str, Any]:
    await _end_first(broker, caller)
    return {}


@router.post("/skip")
async def skip(caller: PasswordCallerOf, broker: BrokerOf) -> None:
    await _end_first(broker, caller)  # a job's images are drawn together: there is no next one to go on with


async def _end_first(broker: Broker, caller: ApiKey) -> None:
    """Cancels the job that `progress` shows, if there is one."""
    for view in (await _open_jobs(broker, caller))[:1]:
        await broker.cancel(view.payload.id)


async def _open_jobs(broker: Broker, caller: ApiKey) -> list[JobView]:
    """The caller's jobs that came by this API: those that run before those that wait, the oldest first."""
    found: list[JobView] = []
    for status in OPEN:
        views, _ = await broker.jobs(caller.name, status=status, limit=MOST_OPEN)
        ours = [view for view in views if isinstance(view, JobView) and MARK.items() <= view.payload.metadata.items()]
        found += sorted(ours, key=lambda view: view.created_at)
    return found


@contextmanager
def _in_their_names(names: Mapping[str, str]) -> Iterator[None]:
    """Names fields at fault as this API does."""
    try:
        yield
    except RequestError as error:
        field = names.get(error.field, error.field)  # may be a path
        raise Problem(422, f"{field}: {error.detail}", errors=[(f"/{field}", error.detail)]) from None


def _patience(request: Request) -> float:
    """How long a job may wait and run, in seconds."""
    settings: GatewaySettings = request.app.state.settings
    return settings.queue_ttl_s + settings.job_timeout_s
