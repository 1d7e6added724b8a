"""A job's way into RQ's hash and back."""

from __future__ import annotations

import json

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from ldm_core.job_warning import JobWarning
from service.answers.answers import job_json
from tests.worker.processes import payload
from worker.jobs import FUNCTION, JobPayload, queue_name
from worker.store.records import new_record, payload_of, view_of


def test_a_payload_survives_json() -> None:
    job = payload("a boat", n=3, priority="high", metadata={"album": "7"}, inputs=("image",))
    assert JobPayload.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_rq_reads_the_record_as_its_own(redis: Redis) -> None:
    job = payload("a boat", n=2, guidance_scale=3.0, priority="low")
    redis.hset(f"rq:job:{job.id}", mapping=new_record(job, timeout_s=60, result_ttl_s=30))
    seen = Job.fetch(job.id, connection=redis, serializer=JSONSerializer)
    assert seen.func_name == FUNCTION
    assert JobPayload.from_json(seen.kwargs) == job
    assert (seen.origin, seen.timeout, seen.result_ttl, seen.retries_left) == (queue_name("toy", "low"), 60, 30, 6)
    assert seen.is_queued
    record = redis.hgetall(f"rq:job:{job.id}")
    assert record[b"x_rows"] == b"4"  # two images, two rows each
    view = view_of(job.id, record, 0.0)
    assert (view.payload, view.status, view.step, view.error) == (job, "queued", 0, None)


def test_another_function_on_the_queue_is_refused_without_an_import() -> None:
    job = Job.create("os.system", args=("true",), connection=Redis(), serializer=JSONSerializer)
    with pytest.raises(ValueError, match=r"os\.system"):
        payload_of(job.to_dict()["data"])


@pytest.mark.parametrize("job_id", ["", "a:b", "../x", "a" * 65, "ä"])
def test_an_id_that_could_be_read_as_something_else_is_refused(job_id: str) -> None:
    with pytest.raises(ValueError, match="job id"):
        new_record(payload(id=job_id), timeout_s=60, result_ttl_s=30)


def test_a_job_shows_the_warnings_of_gateway_and_worker() -> None:
    known = JobWarning("sampler_replaced", "the directory names 'heun'; 'ddim' is used")
    found = JobWarning("prompt_truncated", "the last 40 tokens were cut", "/prompt")
    record = new_record(payload(warnings=(known,)), timeout_s=60, result_ttl_s=30)
    record["x_warnings"] = json.dumps([found.to_json()])
    stored = {key.encode(): value if isinstance(value, bytes) else str(value).encode() for key, value in record.items()}
    assert job_json(view_of("j", stored, 0.0))["warnings"] == [known.to_json(), found.to_json()]
