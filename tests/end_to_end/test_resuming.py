"""Long jobs are saved on their way: another worker goes on with them, and the image is the undisturbed one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise

import pytest
from redis import Redis

from tests.end_to_end.bodies import request
from tests.end_to_end.serving import Served, eventually

pytestmark = pytest.mark.slow

Serve = Callable[..., Served]
STEPS = 80
JOBS = {
    "deterministic": ("txt2img", {}),
    "noisy": ("txt2img", {"eta": 1.0, "n": 2}),
    "dpmpp_2m": ("inpaint", {"sampler": "dpmpp_2m"}),
    "plms": ("superres", {"sampler": "plms"}),
    "cascade": ("txt2img", {"upscale": True}),
}


def submit_all(service: Served) -> dict[str, str]:
    return {
        name: service.submit(task, **request(service, task, steps=STEPS, **fields))["id"]
        for name, (task, fields) in JOBS.items()
    }


def pictures(service: Served, ids: dict[str, str]) -> dict[str, list[str]]:
    ended = {name: service.finished(job_id) for name, job_id in ids.items()}
    assert {job["status"] for job in ended.values()} == {"succeeded"}
    return {name: [image["sha256"] for image in job["images"]] for name, job in ended.items()}


def open_redis(service: Served) -> Redis:
    return Redis(unix_socket_path=str(service.data_dir / "redis" / "redis.sock"), decode_responses=True)


def steps_seen(redis: Redis, job_id: str) -> list[int]:
    """The steps that a job was said to have done, in the order of the events."""
    events = [fields for _, fields in redis.xrange("ldm:events") if fields["kind"] == "progress"]
    return [steps[job_id] for steps in (json.loads(event["steps"]) for event in events) if job_id in steps]


def saved(redis: Redis, ids: dict[str, str]) -> dict[str, int]:
    return {name: int(redis.hget(f"rq:job:{job_id}", "x_saved") or 0) for name, job_id in ids.items()}


def test_a_killed_workers_jobs_go_on_where_they_were_saved(serve: Serve) -> None:
    service = serve(checkpoint_s=0.2)
    service.wait_until_ready()
    undisturbed = pictures(service, submit_all(service))
    ids = submit_all(service)
    with open_redis(service) as redis:
        eventually(lambda: min(saved(redis, ids).values()) >= 10)
        os.kill(service.worker(), signal.SIGKILL)
        kept = saved(redis, ids)
        assert pictures(service, ids) == undisturbed
        for name, job_id in ids.items():
            seen = steps_seen(redis, job_id)
            assert all(later >= min(earlier, kept[name]) for earlier, later in pairwise(seen)), name
    assert not [path for path in (service.data_dir / "blobs").rglob("*") if path.suffix in {".checkpoint", ".image"}]


def test_what_a_drain_cuts_short_goes_on_after_the_restart(serve: Serve) -> None:
    first = serve(drain_s=0.1)
    first.wait_until_ready()
    ids = submit_all(first)
    for job_id in ids.values():
        first.running(job_id)
    assert first.stop() == 0, first.log()
    second = serve()
    second.wait_until_ready()
    with open_redis(second) as redis:
        seen = {name: steps_seen(redis, job_id) for name, job_id in ids.items()}
        cut_short = pictures(second, ids)
        for name, job_id in ids.items():
            again = steps_seen(redis, job_id)[len(seen[name]) :]
            last = seen[name][-1]
            assert again[0] in {last, last + 1}, name  # the same while one of two images is a step ahead
            assert last + 1 in again, name
            assert redis.hget(f"rq:job:{job_id}", "retries_left") == "6"
    assert pictures(second, submit_all(second)) == cut_short
