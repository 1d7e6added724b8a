"""A job as the hash that RQ keeps of it: written once at submit, read back by worker and gateway. No torch."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from rq.job import Job, JobStatus, Retry
from rq.results import Result
from rq.serializers import JSONSerializer

from ldm_core.errors import DeadlineExceeded, LdmError, RequestError
from ldm_core.job_warning import warnings_from_json
from worker.jobs import FUNCTION, JobPayload, JobView, OtherVersion, Status, StoredImage, UnreadableJob, queue_name

MAX_RETRIES = 6  # what a death or an error costs of them: `worker/store/lua/lib/prelude.lua`
FAILURE_TTL_S = 86400
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
STATUSES: Mapping[str, Status] = {
    "started": "running",
    "finished": "succeeded",
    "failed": "failed",
    "canceled": "cancelled",
    "stopped": "cancelled",
}  # everything else that RQ knows is a way to be queued
LOST = {
    "type": "about:blank", "title": "Internal Server Error", "status": 500,
    "detail": "Workers were lost under this job until its retries were used up.",
}  # fmt: skip

_offline = Redis()  # RQ's Job wants a client even to be turned into a dictionary; this one never connects


class UnreadableRecord(LdmError):
    """A record that this version cannot read. `job` is what can be said of it."""

    def __init__(self, job: UnreadableJob) -> None:
        super().__init__(job.detail)
        self.job = job


def new_record(
    payload: JobPayload, *, timeout_s: int, result_ttl_s: int, wait_s: int = 0, image_bytes: int = 0
) -> dict[str, Any]:
    """The hash of a job that is about to be queued, without its times, which the script stamps.

    `timeout_s` is the most that it may ask for, `wait_s` how long it may wait for a worker (0: for ever), and
    `image_bytes` what its images will take in Redis.
    """
    if not JOB_ID.fullmatch(payload.id):
        raise ValueError(f"job id {payload.id!r} must be 1 to 64 letters, digits, '_' or '-'")
    params = payload.params
    return {
        **_blank_record(),
        "data": zlib.compress(JSONSerializer.dumps([FUNCTION, None, [], payload.to_json()])),
        "origin": queue_name(payload.model, payload.priority, payload.owner),
        "description": f"{params.task} with {payload.model}: {params.n} x {payload.steps} steps",
        "timeout": min(payload.timeout_s or timeout_s, timeout_s),
        "result_ttl": result_ttl_s,
        "x_rows": payload.rows,
        "x_step": 0,
        "x_steps": payload.steps,
        "x_wait_s": wait_s,
        "x_bytes": image_bytes,
        **({"x_webhook": urlsplit(payload.webhook).netloc} if payload.webhook else {}),
    }


def fields_of(record: Mapping[str, Any]) -> list[Any]:
    """Its fields and values by turns, without `data`, whose bytes are no text."""
    return [part for field, value in record.items() if field != "data" for part in (field, value)]


@cache
def _blank_record() -> Mapping[str, Any]:
    """What RQ writes of a job, as far as it is the same for each: to have RQ write every one takes much longer."""
    job = Job.create(
        FUNCTION, connection=_offline, status=JobStatus.QUEUED, failure_ttl=FAILURE_TTL_S,
        retry=Retry(max=MAX_RETRIES), serializer=JSONSerializer,
    )  # fmt: skip
    written = {**job.to_dict(include_meta=False), "status": "queued"}
    del written["created_at"]
    return {field: value for field, value in written.items() if value != ""}  # to RQ the same as without a value


def payload_of(data: bytes) -> JobPayload:
    """What a record's `data` field asks for, as far as this version knows it.

    Raises ValueError where it is not a call of our one function.
    """
    return JobPayload.from_json(_arguments(data))


def payload_to_run(data: bytes) -> JobPayload:
    """The same in full. Raises OtherVersion where a worker of another version may know more."""
    arguments = _arguments(data)
    try:
        return JobPayload.to_run(arguments)
    except (RequestError, TypeError, KeyError, AttributeError) as error:
        raise OtherVersion(f"{type(error).__name__}: {error}") from error


def _arguments(data: bytes) -> dict[str, Any]:
    try:
        function, _, _, kwargs = JSONSerializer.loads(zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(f"is not compressed: {error}") from error
    if function != FUNCTION:
        raise ValueError(f"{function!r} is not a function of this worker")
    return dict(kwargs)


def new_view(payload: JobPayload, created_at: bytes, *, position: int | None, event_id: str) -> JobView:
    """What `view_of` and the queues would say of a job that has just been queued."""
    return JobView(
        payload=payload,
        status="queued",
        step=0,
        created_at=unix(created_at) or 0.0,
        queue_position=position,
        event_id=event_id,
    )


def view_of(job_id: str, record: Mapping[bytes, bytes], now: float) -> JobView:
    """The record as a client may see it at `now`, Unix seconds of Redis' clock; only the queues know its place in them.

    Raises UnreadableRecord.
    """
    text = {key.decode(): value for key, value in record.items()}
    try:
        return _view_of(text, now)
    except Exception as error:  # whatever is in it, it is that of another version or damaged
        raise UnreadableRecord(_unreadable(job_id, text)) from error


def _unreadable(job_id: str, text: Mapping[str, bytes]) -> UnreadableJob:
    """What the fields beside the one that cannot be read say."""
    said = {name: value.decode(errors="replace") for name, value in text.items()}
    created_at: float | None = None
    with suppress(ValueError):
        created_at = unix(said.get("created_at", "").encode())
    return UnreadableJob(
        id=job_id,
        owner=said.get("x_owner", ""),
        model=said.get("origin", "").partition("@")[0].rpartition(".")[0],
        status=STATUSES.get(said.get("status", ""), "queued"),
        created_at=created_at,
        detail="The record of this job cannot be read here: it is damaged, or another version of the service wrote it.",
    )


def _view_of(text: Mapping[str, bytes], now: float) -> JobView:
    status = STATUSES.get(text["status"].decode(), "queued")
    finished = unix(text.get("ended_at"))
    ttl = int(text["failure_ttl" if status == "failed" else "result_ttl"])
    error = json.loads(text["x_error"]) if "x_error" in text else LOST
    expires = finished + ttl if finished else None
    gone = expires is not None and now > expires  # under an idempotency key the record is kept longer
    return JobView(
        payload=payload_of(text["data"]),
        status=status,
        step=int(text.get("x_step", 0)),
        created_at=unix(text.get("created_at")) or 0.0,
        started_at=unix(text.get("started_at")),
        finished_at=finished,
        expires_at=expires,
        images=() if gone else tuple(StoredImage.from_json(image) for image in json.loads(text.get("x_images", b"[]"))),
        error=error if status == "failed" else None,
        worker_warnings=warnings_from_json(json.loads(text.get("x_warnings", b"[]"))),
        event_id=text.get("x_event", b"0-0").decode(),
        as_of=now,
    )


def result_fields(job_id: str, value: Any, error: str | None, worker: str, execution: str) -> list[Any]:
    """RQ's `Result` of an execution, as the fields of its stream entry."""
    result = Result(
        job_id,
        Result.Type.SUCCESSFUL if error is None else Result.Type.FAILED,
        connection=_offline,
        return_value=value,
        exc_string=error,
        worker_name=worker,
        serializer=JSONSerializer,
        execution_id=execution,
    )
    return fields_of(result.serialize())


def problem_of(error: BaseException) -> dict[str, Any]:
    """A failed job's `error`: a problem object (RFC 9457) that tells nothing of our insides."""
    if isinstance(error, RequestError):
        pointers = [{"pointer": f"/{error.field}", "detail": error.detail}]
        return _problem(422, "Unprocessable Content", str(error)) | {"errors": pointers}
    if isinstance(error, DeadlineExceeded):
        return _problem(504, "Gateway Timeout", str(error))
    if isinstance(error, LdmError):
        return _problem(500, "Internal Server Error", str(error))
    return _problem(500, "Internal Server Error", "The job failed on the worker; its log has the cause.")


def unreadable_problem() -> str:
    """The `error` of a job whose record no worker can read, as JSON."""
    return json.dumps(_problem(500, "Internal Server Error", "The job's record is damaged: no worker can read it."))


def _problem(status: int, title: str, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": title, "status": status, "detail": detail}


def unix(stamp: bytes | None) -> float | None:
    """RQ's time stamp as Unix seconds."""
    return datetime.fromisoformat(stamp.decode()).timestamp() if stamp else None
