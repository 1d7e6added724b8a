"""The promise of the engine: a request's image does not depend on who else is being served."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.end_to_end.bodies import TASKS, request
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow


def steps_of_more_rows_than_one_call_holds(served: Served) -> float:
    """How many denoising steps had more than two rows, so that jobs must have shared them."""
    rows = re.findall(r'ldm_rows_per_step_bucket\{le="(2\.0|\+Inf)".*\} (\S+)', served.metrics()[1])
    return sum(float(count) if le == "+Inf" else -float(count) for le, count in rows)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_bytes_alone_and_among_fifteen_others(served: Served, task: str) -> None:
    wanted = request(served, task, steps=12, seed=99)
    alone = served.finished(served.submit(task, **wanted)["id"])
    shared_before = steps_of_more_rows_than_one_call_holds(served)

    ids = []
    for i in range(15):
        other = TASKS[i % 3]
        varied = {"steps": 5 + i, "seed": i, "n": 1 + i % 2, "eta": (i % 4) / 4}
        guidance = {"guidance_scale": 1 + i % 5} if other != "superres" else {}
        ids.append(served.submit(other, **request(served, other, **varied, **guidance))["id"])
        if i == 7:
            ids.append(served.submit(task, **wanted)["id"])
    jobs = [served.finished(job_id) for job_id in ids]

    assert [job["status"] for job in jobs] == ["succeeded"] * 16
    assert steps_of_more_rows_than_one_call_holds(served) > shared_before
    assert jobs[8]["images"][0]["sha256"] == alone["images"][0]["sha256"]


def test_the_same_bytes_with_two_threads_at_small_sizes(serve: Callable[..., Served]) -> None:
    """Where a row's place in its call once changed its last bits. Each job has a mate before it and one behind."""
    served = serve([], threads=2)  # the models that come with the package
    served.wait_until_ready()
    bodies = [
        request(served, "txt2img", steps=5, seed=seed, width=16, height=height, guidance_scale=guidance)
        for height in (16, 80)
        for seed, guidance in enumerate((1, 1, 3, 1))
    ]
    alone = [served.finished(served.submit("txt2img", **body)["id"]) for body in bodies]
    ids = [served.submit("txt2img", **body)["id"] for body in [*bodies, *bodies[::-1]]]
    together = [served.finished(job_id) for job_id in ids]

    def digests(jobs: list[dict[str, Any]]) -> list[str]:
        return [job["images"][0]["sha256"] for job in jobs]

    assert digests(together) == digests(alone) + digests(alone)[::-1]
