"""What a running service exposes is what the dashboard asks for."""

from __future__ import annotations

import re

from tests.end_to_end.bodies import TASKS, request
from tests.end_to_end.serving import Served, eventually
from tests.test_dashboard import named_metrics


def test_a_running_service_exposes_every_metric_of_the_dashboard(served: Served) -> None:
    for task in TASKS:
        served.finished(served.submit(task, **request(served, task))["id"])
    exposed = set(re.findall(r"^(ldm_\w+)(?:\{| )", "\n".join(served.metrics()), re.MULTILINE))
    assert named_metrics() <= exposed


def test_a_job_is_counted_by_task_model_and_outcome(served: Served) -> None:
    def count() -> float:
        _, worker = served.metrics()
        found = re.search(r'ldm_jobs_total\{model="\S+",outcome="succeeded",task="txt2img"\} (\S+)', worker)
        return float(found[1]) if found else 0.0

    before = count()
    served.finished(served.submit("txt2img", **request(served, "txt2img"))["id"])
    assert count() == before + 1


def test_the_gateway_tells_how_full_steps_are(served: Served) -> None:
    served.finished(served.submit("txt2img", **request(served, "txt2img"))["id"])

    def taken(name: str) -> float:
        found = re.search(rf'^ldm_model_{name}{{model="scenes"}} (\S+)', served.metrics()[0], re.MULTILINE)
        return float(found[1]) if found else 0.0

    assert eventually(lambda: taken("steps")) >= 1
    assert taken("rows") >= taken("steps")


def test_no_metric_names_a_job_or_a_prompt(served: Served) -> None:
    """Labels of unbounded number are what kills a Prometheus."""
    prompt = "a prompt that must not become a label"
    job = served.submit("txt2img", **request(served, "txt2img", prompt=prompt))
    served.finished(job["id"])
    served.http.get("/v1/no/such/route")
    told = "\n".join(served.metrics())
    assert job["id"] not in told
    assert prompt not in told
    assert "no/such" not in told
