"""Following a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from service.answers.event_stream import all_seen, event_stream, resume_after
from service.answers.openapi import problems, with_headers
from service.dependencies import BrokerOf, LinksOf, MetricsOf, ReadableJobOf

router = APIRouter(prefix="/v1", tags=["jobs"])

EXAMPLE = """id: 1700000000000-0
event: progress
data: {"step":7,"steps":25,"progress":0.28}

"""


AT_ONCE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # headers by which a proxy passes each event on


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`status`, then `progress` at every step, last the event named after the final status",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
        **with_headers("Cache-Control"),
    },
    204: {"description": "The client has seen the job's last event: there is nothing to reconnect for"},
    **problems(404, 422, 503),
}


@router.get(
    "/jobs/{job_id}/events", summary="The job's life as Server-Sent Events", responses=EVENTS,
    response_class=EventStream,
)  # fmt: skip
async def stream_events(
    request: Request, job: ReadableJobOf, broker: BrokerOf, links: LinksOf, metrics: MetricsOf,
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", description="goes on after this event")] = "",
    preview: Annotated[bool, Query(description="some `progress` events have `preview`, a JPEG data URL")] = False,
) -> Response:  # fmt: skip
    seen = resume_after(last_event_id, job, broker.newest_event)
    if all_seen(job, seen):
        return Response(status_code=204)

    if getattr(request.state, "head", False):
        return Response(headers=AT_ONCE, media_type=EventStream.media_type)

    async def stream() -> AsyncIterator[bytes]:
        with metrics.listening():
            async with aclosing(event_stream(broker, job.payload.id, seen, previews=preview, links=links)) as events:
                async for event in events:
                    yield event

    return EventStream(stream(), headers=AT_ONCE)
