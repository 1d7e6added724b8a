"""OpenAI's Images API, translated onto the same jobs: generations, edits and variations, also as streams."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ldm_core.errors import InvalidImage, InvalidParameter
from ldm_core.job_warning import JobWarning
from ldm_core.params import Task
from service.access.auth import ApiKey
from service.access.links import Links
from service.answers import answers
from service.answers.event_stream import STILL_HERE, Step, follow
from service.answers.openai_answers import ImageResult, ImagesResponse, Usage, event_of, size_of, warnings_of
from service.answers.openapi import MADE, body_of, problems, with_headers
from service.answers.waiting import asked_wait, ended, stored_image, why_without_images
from service.broker.broker import Broker
from service.dependencies import BrokerOf, CallerOf, LinksOf, MetricsOf
from service.errors import EXPECTED, Problem, as_problem
from service.http.hang_up import while_connected
from service.http.negotiation import refuse_encoded
from service.intake.inputs import Inputs
from service.intake.openai_requests import (
    ImageEditForm,
    ImageGenerationRequest,
    ImageVariationForm,
    OpenAIInpainting,
    OpenAIRequest,
    StreamedRequest,
)
from service.intake.submission import prepare
from service.metrics import GatewayMetrics
from service.problems import openai_error
from service.routes.events import AT_ONCE, EventStream
from service.routes.making import HEADERS, Recipe, headers_of, make_job
from service.routes.queueing import refusals_counted
from worker.jobs import TERMINAL, JobPayload, JobView

router = APIRouter(prefix="/v1/images", tags=["openai"])

WAIT_S = 600.0  # without `Prefer: wait=N`: as long as OpenAI's clients wait
NO_RETRY = {"X-Should-Retry": "false"}  # OpenAI's clients would send it again, and make another job
TWICE = {"size": {"width", "height"}, "output_format": {"format"}}
HARMLESS = {"quality": {"auto", "standard"}}
UNHEEDED = {
    "quality": "It is set by `steps`, `sampler` and `guidance_scale` here.",
    "style": "It is set by the prompt here.",
    "input_fidelity": "How near an edit stays to its image is set by `strength` here.",
}
ROUTES: dict[str, tuple[type[OpenAIRequest], Task, str, str]] = {
    "generations": (ImageGenerationRequest, "txt2img", "image_generation", "A prompt to images"),
    "edits": (ImageEditForm, "inpaint", "image_edit", "An image to changed ones"),
    "variations": (ImageVariationForm, "txt2img", "", "An image to others like it"),
}
REQUESTS = tuple(body for body, *_ in ROUTES.values())
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The images; with `stream` events, the last of them named `completed`, one for each image",
        "model": ImagesResponse, "content": {"text/event-stream": {"schema": {"type": "string"}}},
        **with_headers(*MADE, "X-Job-ID"),
    },
    202: {"description": "Not done in the time of `Prefer: wait`: the job", "model": answers.Job,
          **with_headers(*MADE, "X-Job-ID")},
    **problems(400, 408, 410, 413, 415, 422, 429, 503, 504),
}  # fmt: skip


def _add_route(name: str, body: type[OpenAIRequest], task: Task, event: str, summary: str) -> None:
    described = body_of(body)
    recipe = Recipe(task, body, kinds=tuple(described["requestBody"]["content"]), prepare=_prepare)

    async def make(
        request: Request, caller: CallerOf, broker: BrokerOf, links: LinksOf, metrics: MetricsOf
    ) -> Response:
        with refusals_counted(metrics, caller):
            refuse_encoded(request.headers)
            sent, asked = await make_job(request, caller, broker, metrics, recipe)
        headers = {"Location": links.job(sent.view.payload.id), "X-Job-ID": sent.view.payload.id, **headers_of(sent)}
        if isinstance(asked, StreamedRequest) and asked.stream:
            events = _events(broker, metrics, sent.view, event, asked.partial_images)
            return EventStream(events, headers=AT_ONCE | headers)
        as_urls = asked.response_format == "url"
        return await while_connected(request, _answer(request, broker, sent.view, links, headers, as_urls=as_urls))

    router.add_api_route(
        f"/{name}", make, methods=["POST"], name=f"create_image_{name}", responses=ANSWERS,
        summary=f"{summary}, as OpenAI's clients ask for it", response_model=ImagesResponse,
        openapi_extra=described | {"parameters": HEADERS},
    )  # fmt: skip


async def _answer(
    request: Request, broker: Broker, view: JobView, links: Links, headers: dict[str, str], *, as_urls: bool
) -> Response:
    """Waits, and answers with the images, or `as_urls` with their addresses, signed where callers need a key."""
    asked_s = asked_wait(request)
    view = await ended(broker, view, WAIT_S if asked_s is None else asked_s)
    if asked_s:
        headers["Preference-Applied"] = f"wait={asked_s:.0f}"
    if view.status not in TERMINAL and asked_s is not None:
        return JSONResponse(answers.job_json(view, links), 202, headers)
    seeds = [image.seed for image in _checked(view, headers).images]
    if not as_urls:
        encoded = [await _base64(broker, view, i) for i in range(len(seeds))]
        data = [ImageResult(b64_json=each, seed=seed) for each, seed in zip(encoded, seeds, strict=True)]
    else:
        at = f"{request.url.scheme}://{request.url.netloc}"
        data = [ImageResult(url=at + links.image(view.payload.id, i), seed=seed) for i, seed in enumerate(seeds)]
    found = ImagesResponse(
        created=int(view.finished_at or view.created_at), data=data, output_format=view.payload.format,
        size=size_of(view), job_id=view.payload.id, warnings=warnings_of(view),
    )  # fmt: skip
    return Response(found.model_dump_json(exclude_none=True), headers=headers, media_type="application/json")


async def _events(
    broker: Broker, metrics: GatewayMetrics, view: JobView, event: str, wanted: int
) -> AsyncIterator[bytes]:
    """Yields `wanted` previews of the first image at most, spread over its steps, then every image, or an error."""
    with metrics.listening():
        try:
            async with aclosing(_partial_images(broker, view, event, wanted)) as partial_images:
                async for partial_image in partial_images:
                    yield partial_image
            view = _checked(await broker.job(view.payload.id) or view)
            for i, image in enumerate(view.images):
                about = {"usage": Usage().model_dump(), "seed": image.seed, "job_id": view.payload.id}
                about["warnings"] = [warning.model_dump() for warning in warnings_of(view)]
                yield event_of(view, f"{event}.completed", await _base64(broker, view, i), view.payload.format, about)
        except EXPECTED as error:
            problem = as_problem(error)
            told = openai_error(problem.status, problem.detail, [pointer for pointer, _ in problem.errors])
            yield f"event: error\ndata: {json.dumps({'type': 'error', 'error': told.model_dump()})}\n\n".encode()


async def _partial_images(broker: Broker, view: JobView, event: str, wanted: int) -> AsyncGenerator[bytes, None]:
    sent, last, newest = 0, b"", b""
    async with aclosing(follow(broker, view.payload.id, previews=wanted > 0)) as happenings:
        async for happened in happenings:
            if happened is None:
                yield STILL_HERE
            elif isinstance(happened, Step) and sent < wanted:
                newest = happened.preview or newest
                if newest in {b"", last} or happened.step * (wanted + 1) < happened.steps * (sent + 1):
                    continue  # its turn comes later, unless there is a newer one then
                last = newest
                about = {"partial_image_index": sent}
                yield event_of(view, f"{event}.partial_image", b64encode(last).decode(), "jpeg", about)
                sent += 1


def _checked(view: JobView, headers: Mapping[str, str] = NO_RETRY) -> JobView:
    """The job, if it has images. Raises Problem."""
    if view.status not in TERMINAL:
        detail = f"The images are not done yet; job {view.payload.id} goes on, and has them when it has ended."
        raise Problem(504, detail, headers={**headers, **NO_RETRY})
    if not view.images:
        raise why_without_images(view, {**headers, **NO_RETRY})
    return view


async def _base64(broker: Broker, view: JobView, index: int) -> str:
    return b64encode(await stored_image(broker, view, index, NO_RETRY)).decode()


async def _prepare(broker: Broker, _: Task, body: OpenAIRequest, **given: Any) -> tuple[JobPayload, Inputs]:
    """As `prepare`, for OpenAI's fields. What they ask for and do not get stands in the job's warnings."""
    warnings = [*_translate(body)]
    payload, inputs = await _prepare_task(broker, body, **given)
    size = f"{inputs.width}x{inputs.height}"
    if body.size not in {None, "auto", size}:
        raise InvalidParameter("size", f"must be left out, or {size}: the image gives the size")
    if isinstance(body, ImageEditForm) and payload.params.task == "txt2img":
        detail = "No mask is used: all of the image is drawn anew, as far from it as `strength` says."
        warnings.append(JobWarning("edited_whole", detail, "/mask"))
    renamed = {"/width": "/size"} if body.size is not None else {}
    known = (replace(warning, pointer=renamed.get(warning.pointer, warning.pointer)) for warning in payload.warnings)
    return replace(payload, warnings=(*known, *warnings)), inputs


def _translate(body: OpenAIRequest) -> Iterator[JobWarning]:
    """Sets our fields by OpenAI's, and yields what is not heeded. Raises InvalidParameter."""
    if getattr(body, "background", None) == "transparent":
        raise InvalidParameter("background", "must be opaque or auto: no model here draws transparency")
    for name, ours in TWICE.items():
        if getattr(body, name) not in {None, "auto"} and ours & body.model_fields_set:
            raise InvalidParameter(name, f"goes without our {' and '.join(sorted(ours))}, which says the same")
    if body.output_format is not None:
        body.format = body.output_format
    if body.size not in {None, "auto"} and body.image is None:
        body.width, body.height = map(int, str(body.size).split("x"))
    for name, detail in UNHEEDED.items():
        if getattr(body, name, None) not in {None, *HARMLESS.get(name, ())}:
            yield JobWarning(f"{name}_ignored", detail, f"/{name}")
    if isinstance(body, StreamedRequest):
        if body.stream and body.response_format == "url":
            yield JobWarning("response_format_ignored", "A stream has the images in base64.", "/response_format")
        if body.partial_images and not body.stream:
            yield JobWarning("partial_images_ignored", "They come in a `stream` alone.", "/partial_images")


async def _prepare_task(
    broker: Broker, body: OpenAIRequest, *, caller: ApiKey, **given: Any
) -> tuple[JobPayload, Inputs]:
    """Inpaints where something is transparent; any other request is one for text to image."""
    to_redraw = body.neighbors is not None or body.strength is not None
    if isinstance(body, ImageEditForm) and (body.mask is not None or not to_redraw):
        caller.check_task("inpaint")
        try:
            return await prepare(broker, "inpaint", _inpainting(body), caller=caller, **given)
        except InvalidImage as error:
            if body.mask is not None or error.field != "mask":
                raise
    caller.check_task("txt2img")
    try:
        return await prepare(broker, "txt2img", body, caller=caller, **given)
    except InvalidParameter as error:
        if error.field == "neighbors":
            raise InvalidParameter("image", f"must be one here: {error.detail} beside it") from None
        sized = body.size is not None and error.field in {"width", "height"}
        raise InvalidParameter("size" if sized else error.field, error.detail) from None


def _inpainting(body: ImageEditForm) -> OpenAIInpainting:
    """Raises InvalidParameter for what does not go with a mask."""
    for name in ("neighbors", "strength", "width", "height"):
        if getattr(body, name) is not None:
            told = ("image", "must be one beside a mask") if name == "neighbors" else (name, "does not go with a mask")
            raise InvalidParameter(*told)
    known = OpenAIInpainting.model_fields.keys()
    return OpenAIInpainting.model_construct(
        body.model_fields_set & known, **{name: getattr(body, name) for name in known}
    )


for _name, _route in ROUTES.items():
    _add_route(_name, *_route)
