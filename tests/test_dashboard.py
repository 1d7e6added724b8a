"""The dashboard, the alerts and the autoscaler ask only for metrics that gateway and worker define."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import GatewayMetrics
from worker.metrics import WorkerMetrics

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
METRIC = re.compile(r"\bldm_[a-z0-9_]+")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))]


def panel_expressions() -> Iterator[tuple[str, str]]:
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"]


def named_metrics() -> set[str]:
    """Every metric that a panel names, as Prometheus stores it (`_total`, `_bucket`, …)."""
    return {metric for _, expression in panel_expressions() for metric in METRIC.findall(expression)}


def defined_metrics() -> set[str]:
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    WorkerMetrics(registry)
    return {family.name + suffix for family in registry.collect() for suffix in SUFFIXES[family.type]}


def test_every_metric_that_a_panel_names_is_defined() -> None:
    assert named_metrics() <= defined_metrics()


def test_alerts_and_autoscaler_ask_for_metrics_that_are_defined() -> None:
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    scaler = (DEPLOY / "kubernetes" / "overlays" / "keda" / "scaledobject.yaml").read_text()
    expressions = [rule["expr"] for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    expressions += [trigger["metadata"]["query"] for trigger in yaml.safe_load(scaler)["spec"]["triggers"]]
    asked = {metric for expression in expressions for metric in METRIC.findall(expression)}
    assert asked
    assert asked <= defined_metrics()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_see_each_model_by_itself() -> None:
    tests = Path(__file__).with_name("alerts.test.yml")
    done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_adds_up_models() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    of_models = [rule["expr"] for rule in rules if re.search(r"ldm_(queue|jobs|workers)", rule["expr"])]
    assert len(of_models) == 4
    for expression in of_models:
        assert all("model" in by for by in re.findall(r"(?:sum|max)(?: by \(([^)]*)\) )?\(", expression)), expression


def test_the_dashboard_answers_what_an_operator_asks_first() -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in named_metrics()}
    assert shown >= {
        "ldm_http_requests_total",
        "ldm_http_request_seconds",
        "ldm_jobs_total",
        "ldm_queue_depth",
        "ldm_queue_wait_seconds",
        "ldm_rows_per_step",
        "ldm_step_seconds",
        "ldm_stage_seconds",
        "ldm_device_memory_bytes",
    }


def test_every_panel_says_what_it_shows_and_reads_the_provisioned_data_source() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    known = {source["uid"] for source in provisioned["datasources"]}
    for dashboard in dashboards():
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        assert all(panel["description"] and panel["datasource"]["uid"] in known for panel in panels)
