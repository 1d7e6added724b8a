"""DELETE, before a job runs, while it runs and after it has ended."""

from __future__ import annotations

from tests.end_to_end.bodies import request
from tests.end_to_end.serving import Served


def test_a_running_job_stops_and_the_others_go_on(served: Served) -> None:
    long = served.submit("txt2img", **request(served, "txt2img", steps=1000))
    served.running(long["id"])
    mate = served.submit("txt2img", **request(served, "txt2img", steps=20))
    answer = served.http.delete(long["urls"]["cancel"])
    assert answer.status_code == 200
    cancelled = served.finished(long["id"])
    assert cancelled["status"] == "cancelled"
    assert cancelled["step"] < 1000
    assert served.http.get(f"/v1/jobs/{long['id']}/images/0").status_code != 200
    assert served.finished(mate["id"])["status"] == "succeeded"


def test_a_finished_job_loses_its_pictures(served: Served) -> None:
    job = served.submit("txt2img", **request(served, "txt2img"))
    served.finished(job["id"])
    served.image(job["id"])
    assert served.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert served.http.get(f"/v1/jobs/{job['id']}/images/0").status_code in {404, 410}


def test_an_unknown_job_is_not_found(served: Served) -> None:
    for answer in (served.http.get("/v1/jobs/nobody"), served.http.delete("/v1/jobs/nobody")):
        assert answer.status_code == 404
        assert answer.headers["Content-Type"] == "application/problem+json"
