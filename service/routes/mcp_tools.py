"""The tools that assistants call, translated onto the same jobs. Imported at the first request for one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from anyio import CancelScope, to_thread
from fastapi import Request
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.types import Receive, Scope, Send

from ldm_core.params import Task
from ldm_core.release import release
from service.access.auth import ApiKey, Forbidden
from service.answers.answers import ModelList, model_of
from service.answers.event_stream import Step, follow
from service.answers.mcp_answers import content_of, told
from service.answers.waiting import stored_image, succeeded
from service.broker.broker import Broker
from service.dependencies import links_of, own_job
from service.errors import Problem, as_problem
from service.http.memory import LARGE
from service.intake.mcp_schemas import FIELDS, schema_of
from service.intake.strict_json import field_problem
from service.intake.tasks import REQUESTS
from service.metrics import GatewayMetrics
from service.routes.making import Recipe, make_job
from service.routes.queueing import refusals_counted
from service.settings import GatewaySettings
from worker.jobs import TERMINAL, JobView, LiveModel

log = logging.getLogger(__name__)
for _name in ("mcp", "sse_starlette"):  # which tell of every request
    logging.getLogger(_name).setLevel(logging.WARNING)

Context = ServerRequestContext[Any, Any]

INSTRUCTIONS = """Draws, edits and enlarges images with latent diffusion models. Each call makes a job and answers with
its images and a text: the job's id, each image's seed and address, and warnings of what was not honoured; tell the user
of those. An image drawn before is edited or enlarged by `job_id` and `index`, without sending it again."""


@dataclass(frozen=True, slots=True)
class ImageTool:
    """A tool that makes a job of `task`, or, given a mask, of `masked`."""

    task: Task
    title: str
    description: str
    masked: Task | None = None
    takes_image: bool = True


TOOLS: Mapping[str, ImageTool] = {
    "generate_image": ImageTool(
        "txt2img", "Generate an image",
        "Draws images from a text prompt. The same fields and seed give the same image.",
        takes_image=False,
    ),
    "edit_image": ImageTool(
        "txt2img", "Edit an image",
        "Redraws an image by a text prompt. With `mask`, only where the mask is white; what it leaves out stays as it "
        "is. Without one all of the image changes, as far as `strength` says. Takes `image`, or `job_id` and `index` "
        "of an image drawn before.",
        masked="inpaint",
    ),
    "upscale_image": ImageTool(
        "superres", "Enlarge an image",
        "Enlarges an image by a super-resolution model. Takes `image`, or `job_id` and `index` of one drawn before.",
    ),
}  # fmt: skip
LIST_MODELS = Tool(
    name="list_models", title="List the models", input_schema={"type": "object", "additionalProperties": False},
    description="Lists the models that are served now: their tasks, sizes, samplers, and the words they know.",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
)  # fmt: skip
DRAWS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers one HTTP request; nothing of it is kept, so that any gateway may answer the next one.

    Its size, `Host` and `Origin` have been checked.
    """
    manager = StreamableHTTPSessionManager(SERVER, stateless=True, max_request_body_size=sys.maxsize)
    async with manager.run():
        await manager.handle_request(scope, receive, send)


async def _list_tools(context: Context, _: PaginatedRequestParams | None) -> ListToolsResult:
    request = _request_of(context)
    try:
        models = await _models(request)
    except Exception as error:
        raise MCPError(INTERNAL_ERROR, told(_problem_of(error, request))) from None
    tools = [_tool(name, tool, models) for name, tool in TOOLS.items() if _may_use(request.state.caller, tool)]
    return ListToolsResult(tools=[*tools, LIST_MODELS])


def _tool(name: str, tool: ImageTool, models: list[LiveModel]) -> Tool:
    return Tool(
        name=name, title=tool.title, description=tool.description, annotations=DRAWS,
        input_schema=schema_of(name, tool.task, tool.masked, [model.card for model in models]),
    )  # fmt: skip


def _may_use(caller: ApiKey, tool: ImageTool) -> bool:
    try:
        caller.check_task(tool.task)
    except Forbidden:
        return False
    return True


async def _models(request: Request) -> list[LiveModel]:
    """The models that the caller may use."""
    caller, broker = request.state.caller, request.app.state.broker
    return [model for model in await broker.models(recent=True) if caller.may_use(model.card.id)]


async def _call_tool(context: Context, asked: CallToolRequestParams) -> CallToolResult:
    """Every error of the service is the tool's, so that the assistant reads what to do about it."""
    if asked.name != LIST_MODELS.name and asked.name not in TOOLS:
        raise MCPError(INVALID_PARAMS, f"There is no tool {asked.name[:80]!r}.")
    request = _request_of(context)
    try:
        if asked.name == LIST_MODELS.name:
            models = [model_of(model) for model in await _models(request)]
            text = ModelList(object="list", data=models).model_dump_json()
            return CallToolResult(content=[TextContent(text=text)])
        return await _draw(context, asked.name, asked.arguments or {})
    except Exception as error:
        text = told(_problem_of(error, request))
        return CallToolResult(content=[TextContent(text=text)], is_error=True)


def _request_of(context: Context) -> Request:
    request: Request | None = context.request
    assert request is not None  # over HTTP there always is one
    return request


def _problem_of(error: Exception, request: Request) -> Problem:
    problem = as_problem(error)
    if problem.status == 500:
        log.error("a tool failed", exc_info=error, extra={"request_id": request.state.request_id})
    return problem


async def _draw(context: Context, name: str, arguments: Mapping[str, Any]) -> CallToolResult:
    request = _request_of(context)
    broker: Broker = request.app.state.broker
    with CancelScope(shield=True):  # a client that hangs up shall not leave a submission half done
        view = await _made(request, broker, name, arguments)
    await _report(context, broker, view)
    settings: GatewaySettings = request.app.state.settings
    try:
        view = await succeeded(broker, view, settings.queue_ttl_s + settings.job_timeout_s)
    except Problem as problem:
        problem.headers.pop("Retry-After", None)  # another call would make another job
        raise
    images = [await stored_image(broker, view, i) for i in range(len(view.images))]
    links, at = await links_of(request, broker), f"{request.url.scheme}://{request.url.netloc}"
    urls = [at + links.image(view.payload.id, i) for i in range(len(images))]
    return CallToolResult(content=await to_thread.run_sync(content_of, view, images, urls, limiter=LARGE))


async def _made(request: Request, broker: Broker, name: str, arguments: Mapping[str, Any]) -> JobView:
    """The job that a tool makes. Raises whatever `service/errors.py` knows."""
    tool, caller = TOOLS[name], request.state.caller
    metrics: GatewayMetrics = request.app.state.metrics
    task = tool.masked if tool.masked and arguments.get("mask") is not None else tool.task
    with refusals_counted(metrics, caller):
        caller.check_task(task)
        fields = await _fields(broker, caller, name, arguments)
        sent, _ = await make_job(request, caller, broker, metrics, Recipe(task, REQUESTS[task], fields=fields))
    return sent.view


async def _fields(broker: Broker, caller: ApiKey, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the request, with the image of an earlier job in the place of its id. Raises Problem."""
    given = {field: value for field, value in arguments.items() if value is not None}
    if unknown := given.keys() - FIELDS[name]:
        raise field_problem(min(unknown), f"is no field of {name}")
    job_id, index = given.pop("job_id", None), given.pop("index", None)
    if not TOOLS[name].takes_image or (job_id is None and index is None and "image" in given):
        return given
    if not isinstance(job_id, str) or "image" in given:
        raise field_problem("image", "is needed, or else `job_id` of an image drawn before: one of both")
    view = await own_job(job_id, broker, caller)
    if view.status not in TERMINAL:
        raise field_problem("job_id", f"names a job that is {view.status}")
    index = 0 if index is None else index
    if type(index) is not int or not 0 <= index < len(view.images):
        raise field_problem("index", f"must be one of that job's {len(view.images)} images, counted from 0")
    return {**given, "image": await stored_image(broker, view, index)}


async def _report(context: Context, broker: Broker, view: JobView) -> None:
    """Tells of every step, where the client wants to hear of progress, until the job has ended."""
    if (context.meta or {}).get("progress_token") is None:
        return
    last = -1
    metrics: GatewayMetrics = _request_of(context).app.state.metrics
    with metrics.listening():
        async with aclosing(follow(broker, view.payload.id)) as happenings:
            async for happened in happenings:
                if isinstance(happened, Step | JobView) and happened.step > last:
                    last = happened.step
                    await context.session.report_progress(last, happened.steps, f"step {last} of {happened.steps}")


SERVER: Server[Any] = Server(
    "ldm-service", version=release(), instructions=INSTRUCTIONS, on_list_tools=_list_tools, on_call_tool=_call_tool,
    get_tool_input_schema=lambda _: None,  # no header stands for an argument
)  # fmt: skip
