"""The list of a caller's jobs, page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess, rewrite


async def submit(http: httpx.AsyncClient, count: int) -> list[str]:
    answers = [await http.post("/v1/txt2img", json={"prompt": "x"}) for _ in range(count)]
    return [answer.json()["id"] for answer in answers]


async def test_pages_have_every_job_once_newest_first(http: httpx.AsyncClient, announced: None) -> None:
    ids = await submit(http, 7)
    seen: list[str] = []
    sizes: list[int] = []
    query: dict[str, str] = {"limit": "3"}
    while True:
        page = (await http.get("/v1/jobs", params=query)).json()
        assert page["object"] == "list"
        seen += [job["id"] for job in page["data"]]
        sizes.append(len(page["data"]))
        if page["next_cursor"] is None:
            break
        await submit(http, 1)  # what is new does not shift the pages
        query["cursor"] = page["next_cursor"]
    assert seen == ids[::-1]
    assert sizes == [3, 3, 1]


async def test_listed_jobs_are_as_they_are_alone(http: httpx.AsyncClient, announced: None) -> None:
    for priority in ("low", "normal", "high", "low"):
        await http.post("/v1/txt2img", json={"prompt": "x", "priority": priority})
    listed = (await http.get("/v1/jobs")).json()["data"]
    assert [job["queue_position"] for job in listed] == [4, 1, 2, 3]
    assert listed == [(await http.get(job["urls"]["self"])).json() for job in listed]


async def test_a_full_last_page_has_no_next(http: httpx.AsyncClient, announced: None) -> None:
    await submit(http, 4)
    first = (await http.get("/v1/jobs?limit=2")).json()
    second = (await http.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert len(second["data"]) == 2
    assert second["next_cursor"] is None


async def test_twenty_are_given_unless_asked_otherwise(http: httpx.AsyncClient, announced: None) -> None:
    await submit(http, 60)
    assert len((await http.get("/v1/jobs")).json()["data"]) == 20
    assert len((await http.get("/v1/jobs?limit=100")).json()["data"]) == 60


async def test_a_status_picks_and_expired_jobs_are_left_out(
    http: httpx.AsyncClient, redis: Redis, announced: None, start_worker: Callable[..., WorkerProcess]
) -> None:
    cancelled, gone, done = await submit(http, 3)
    await http.delete(f"/v1/jobs/{cancelled}")
    await http.delete(f"/v1/jobs/{gone}")
    redis.delete(f"rq:job:{gone}")
    start_worker()
    await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=30"})
    listed = (await http.get("/v1/jobs?status=succeeded")).json()["data"]
    assert [job["id"] for job in listed][-1] == done
    assert {job["status"] for job in listed} == {"succeeded"}
    assert [job["id"] for job in (await http.get("/v1/jobs?status=cancelled")).json()["data"]] == [cancelled]
    assert listed[-1] == (await http.get(f"/v1/jobs/{done}")).json()


async def test_a_damaged_record_is_shown_as_that_and_hides_no_other(
    http: httpx.AsyncClient, redis: Redis, announced: None
) -> None:
    first, damaged, last = await submit(http, 3)
    redis.hset(f"rq:job:{damaged}", "data", b"of no version")
    answer = await http.get("/v1/jobs")
    assert answer.status_code == 200
    listed = answer.json()["data"]
    assert [job["id"] for job in listed] == [last, damaged, first]
    assert set(listed[1]) == set(listed[0])
    assert (listed[1]["model"], listed[1]["status"], listed[1]["request"]) == ("toy", "queued", None)
    assert "cannot be read" in listed[1]["error"]["detail"]
    assert listed[1]["created_at"]
    problem = assert_problem(await http.get(f"/v1/jobs/{damaged}"), 500)
    assert problem["detail"] == listed[1]["error"]["detail"]


@pytest.mark.parametrize(
    "other",
    [{"priority": "urgent"}, {"format": "tiff"}, {"metadata": {"a": 1}}, {"metadata": [1]}, {"model": 5}, {"inputs": 3},
     {"request_id": 7}, {"weight": "heavy"}],
)  # fmt: skip
async def test_a_record_of_values_that_are_unknown_here_hides_no_other(
    http: httpx.AsyncClient, redis: Redis, announced: None, other: dict[str, Any]
) -> None:
    whole, strange = await submit(http, 2)
    rewrite(redis, strange, lambda asked: asked.update(other))
    listed = (await http.get("/v1/jobs")).raise_for_status().json()["data"]
    assert [job["id"] for job in listed] == [strange, whole]
    assert "cannot be read" in listed[0]["error"]["detail"]
    assert "another version" in assert_problem(await http.get(f"/v1/jobs/{strange}"), 500)["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=101", "limit"), ("limit=ten", "limit"), ("status=done", "status"),
     ("cursor=", "cursor"), ("cursor=x", "cursor"), ("cursor=bmFuAA", "cursor"), ("cursor=aW5m", "cursor"),
     ("cursor=%C3%A9%C3%A9%C3%A9%C3%A9", "cursor"), ("cursor=" + "A" * 5000, "cursor")],
)  # fmt: skip
async def test_a_bad_query_is_refused_and_named(http: httpx.AsyncClient, query: str, field: str) -> None:
    problem = assert_problem(await http.get(f"/v1/jobs?{query}"), 422)
    assert problem["errors"][0]["pointer"] == f"/{field}"
