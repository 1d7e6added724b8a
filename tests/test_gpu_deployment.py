"""The GPU's overlays ask for a GPU and set `LDM_DEVICE=cuda`, so that a host without one says so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
OVERLAY = ROOT / "deploy/kubernetes/overlays/gpu"


def merged(base: Any, over: Any) -> Any:
    """As Compose merges files: mappings key by key, anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    return over


def test_composes_worker_reserves_a_gpu_and_takes_no_cpu_instead() -> None:
    files = [yaml.safe_load((ROOT / name).read_text()) for name in ("docker-compose.yml", "docker-compose.gpu.yml")]
    plain, services = files[0]["services"], merged(*files)["services"]
    assert "cuda" not in str(plain["worker"]) and "deploy" not in plain["worker"]
    worker = services["worker"]
    assert worker["environment"]["LDM_DEVICE"] == "cuda"  # no ${LDM_DEVICE}: nothing turns it back
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert {name: each for name, each in services.items() if name != "worker"} == {
        name: each for name, each in plain.items() if name != "worker"
    }
    kept = plain["worker"].keys() - {"environment"}
    assert all(worker[key] == plain["worker"][key] for key in kept)
    assert worker["environment"].items() >= (plain["worker"]["environment"] | {"LDM_DEVICE": "cuda"}).items()


def is_for_a_gpu(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert container["name"] == "worker" and environment["LDM_DEVICE"] == "cuda"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def test_kubernetes_patch_asks_for_a_gpu() -> None:
    overlay = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
    assert overlay["resources"] == ["../../base"] and overlay["patches"] == [{"path": "worker.yaml"}]
    patch = yaml.safe_load((OVERLAY / "worker.yaml").read_text())
    assert (patch["kind"], patch["metadata"]["name"]) == ("Deployment", "worker")
    assert patch["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    is_for_a_gpu(patch["spec"]["template"]["spec"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_what_kubectl_is_given_has_the_base_and_the_gpu() -> None:
    made = subprocess.run(["kubectl", "kustomize", str(OVERLAY)], capture_output=True, text=True, check=True).stdout
    documents = [document for document in yaml.safe_load_all(made) if document]
    (worker,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == ("Deployment", "worker")]
    pod = worker["spec"]["template"]["spec"]
    is_for_a_gpu(pod)
    assert {each["name"] for each in pod["containers"][0]["env"]} == {"LDM_DEVICE", "LDM_METRICS_PORT", "LDM_DRAIN_S"}
    gateway = [each for each in documents if (each["kind"], each["metadata"]["name"]) == ("Deployment", "gateway")]
    assert "nvidia.com/gpu" not in str(gateway)
