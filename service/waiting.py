"""How a client wants its answer: at once, after some seconds (`Prefer: wait`), or as the picture itself (`Accept`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from service.broker import Broker, BrokerUnavailable
from service.errors import Problem
from service.schemas import job_json
from worker.jobs import TERMINAL, Format, JobView

MAX_WAIT_S = 120.0
IMAGE_WAIT_S = 60.0  # for a picture, when the client does not say
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)
IMAGE = re.compile(r"image/(png|jpeg|webp|\*)", re.IGNORECASE)
FORMATS: Mapping[str, Format] = {"png": "png", "jpeg": "jpeg", "webp": "webp"}


@dataclass(frozen=True, slots=True)
class Wish:
    """`wait_s` seconds to wait; `picture`: answer with the bytes of image 0, in `format` if one is named."""

    wait_s: float
    picture: bool
    format: Format | None = None

    @classmethod
    def of(cls, request: Request) -> Wish:
        """Reads `Prefer: wait=N` (RFC 7240) and `Accept`."""
        asked = WAIT.search(",".join(request.headers.getlist("prefer")))
        picture = IMAGE.search(request.headers.get("accept", ""))
        default = IMAGE_WAIT_S if picture else 0.0
        named = FORMATS.get(picture[1].lower()) if picture else None
        return cls(min(float(asked[1]), MAX_WAIT_S) if asked else default, picture is not None, named)


async def answer(broker: Broker, view: JobView, wish: Wish, headers: Mapping[str, str]) -> Response:
    """The picture, the finished job, or `202` with the job as it is; `headers` go on each of them."""
    if wish.wait_s > 0 and view.status not in TERMINAL:
        with suppress(BrokerUnavailable):  # the job is accepted all the same
            view = await broker.wait(view.payload.id, wish.wait_s, view.event_id) or view
    if view.status in TERMINAL and wish.picture:
        return await _picture(broker, view, headers)
    status = 200 if view.status in TERMINAL else 202
    headers = {"Location": f"/v1/jobs/{view.payload.id}", **headers}
    if wish.wait_s > 0:
        headers["Preference-Applied"] = f"wait={wish.wait_s:.0f}"
    return JSONResponse(job_json(view), status, headers)


async def _picture(broker: Broker, view: JobView, headers: Mapping[str, str]) -> Response:
    job_id, seed = view.payload.id, view.payload.params.seed
    headers = {"Location": f"/v1/jobs/{job_id}", "X-Job-ID": job_id, "X-Seed": str(seed), **headers}
    data = await broker.image(view.payload.id, 0) if view.images else None
    if data is not None:
        response = Response(data, media_type=view.images[0].content_type, headers=headers)
        for index in range(1, len(view.images)):
            response.headers.append("Link", f'</v1/jobs/{job_id}/images/{index}>; rel="related"')
        for warning in view.warnings:  # headers are ASCII, and prompts are not
            text = f"{warning.code}: {warning.detail}".encode("ascii", "backslashreplace").decode()
            response.headers.append("X-Job-Warning", text)
        return response
    if view.status == "succeeded":
        raise Problem(410, "The pictures of this job are no longer stored.", headers=headers)
    error = view.error or {"status": 409, "detail": f"The job was {view.status}."}
    fields = [(field["pointer"], field["detail"]) for field in error.get("errors", ())]
    raise Problem(int(error["status"]), str(error["detail"]), errors=fields, headers=headers)
