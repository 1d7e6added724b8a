"""Answers a submit as its client asks: at once, after some seconds (`Prefer: wait`), or with the image (`Accept`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from service.access.links import Links
from service.answers.answers import job_json
from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from service.errors import Problem
from service.http.negotiation import Accept
from worker.jobs import CONTENT_TYPES, TERMINAL, Format, JobView

MAX_WAIT_S = 120.0
IMAGE_WAIT_S = 60.0  # for an image, when the client does not say
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)
JSON = "application/json"
FORMATS: Mapping[str, Format] = {content_type: name for name, content_type in CONTENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class ResponsePreference:
    """`asked_s`: seconds to wait, None where the client does not say; `content_type`: of the answer that it prefers."""

    asked_s: float | None
    content_type: str
    accept: Accept

    @classmethod
    def of(cls, request: Request) -> ResponsePreference:
        """Reads `Prefer: wait=N` and `Accept`. Raises Problem where it accepts no answer."""
        accept = Accept(request.headers.getlist("accept"))
        chosen = accept.best([JSON, *FORMATS])
        if chosen is None:
            raise Problem(406, f"Accept takes neither {JSON} nor {' nor '.join(FORMATS)}, which is what there is.")
        return cls(asked_wait(request), chosen, accept)

    @property
    def is_image(self) -> bool:
        """Whether the client wants the job's first image rather than the job: in the job's own format."""
        return self.content_type != JSON

    @property
    def format(self) -> Format:
        """The format of the images of a job whose request names none."""
        return FORMATS.get(self.content_type, "png")

    @property
    def wait_s(self) -> float:
        """How long the answer may take."""
        return (IMAGE_WAIT_S if self.is_image else 0.0) if self.asked_s is None else self.asked_s


def asked_wait(request: Request) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240); None without it."""
    asked = WAIT.search(",".join(request.headers.getlist("prefer")))
    return min(float(asked[1]), MAX_WAIT_S) if asked else None


async def answer(
    broker: Broker, view: JobView, preference: ResponsePreference, headers: Mapping[str, str], links: Links
) -> Response:
    """The image, the finished job, or `202` with the job as it is; `headers` go on each of them."""
    headers = {"Location": links.job(view.payload.id), **headers}
    view = await ended(broker, view, preference.wait_s)
    if view.status in TERMINAL and preference.is_image:
        return await _first_image(broker, view, headers)
    status = 200 if view.status in TERMINAL else 202
    if preference.wait_s > 0:
        headers["Preference-Applied"] = f"wait={preference.wait_s:.0f}"
    return JSONResponse(job_json(view, links), status, headers)


async def succeeded(broker: Broker, view: JobView, timeout_s: float) -> JobView:
    """The job once it has images. Raises Problem where it ends without, or has not ended in time."""
    view = await broker.wait(view.payload.id, timeout_s, view.event_id) or _lost()
    if view.status not in TERMINAL:
        status = 503 if broker.leaving else 504
        raise Problem(status, f"The job goes on: /v1/jobs/{view.payload.id} has it.", headers={"Retry-After": "2"})
    if view.status != "succeeded":
        raise why_without_images(view)
    return view


async def ended(broker: Broker, view: JobView, wait_s: float) -> JobView:
    """The job as soon as it has ended, or as it is after `wait_s` seconds. Raises Problem where it was lost."""
    if wait_s > 0 and view.status not in TERMINAL:
        with suppress(BrokerUnavailable):  # the job is accepted all the same
            return await broker.wait(view.payload.id, wait_s, view.event_id) or _lost()
    return view


def _lost() -> NoReturn:
    detail = "The job was accepted, and then the job queue has lost it; send it again."
    raise Problem(503, detail, headers={"Retry-After": "2"})


async def _first_image(broker: Broker, view: JobView, headers: Mapping[str, str]) -> Response:
    job_id, seed = view.payload.id, view.payload.params.seed
    headers = {"X-Job-ID": job_id, "X-Seed": str(seed), **headers}
    data = await broker.image(view.payload.id, 0) if view.images else None
    if data is not None:
        response = Response(data, media_type=view.images[0].content_type, headers=headers)
        for index in range(1, len(view.images)):
            response.headers.append("Link", f'<{headers["Location"]}/images/{index}>; rel="related"')
        for warning in view.warnings:  # headers are ASCII, and prompts are not
            text = f"{warning.code}: {warning.detail}".encode("ascii", "backslashreplace").decode()
            response.headers.append("X-Job-Warning", text)
        return response
    raise why_without_images(view, headers)


async def stored_image(broker: Broker, view: JobView, index: int, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an image of an ended job. Raises Problem where there are none (any more)."""
    if (data := await broker.image(view.payload.id, index)) is None:
        raise why_without_images(view, headers)
    return data


def why_without_images(view: JobView, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem of an ended job of which there are no images."""
    if view.status == "succeeded":
        return Problem(410, "The images of this job are no longer stored.", headers=headers)
    error = view.error or {"status": 409, "detail": f"The job was {view.status}."}
    fields = [(field["pointer"], field["detail"]) for field in error.get("errors", ())]
    return Problem(int(error["status"]), str(error["detail"]), errors=fields, headers=headers)
