"""`ldm doctor`: what it says of a sound installation, and of each way in which one may be broken."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.commands import doctor_installation, doctor_surroundings
from service.commands.findings import Finding, examined
from tests.command import ROOT, ldm
from tests.end_to_end.serving import free_port

STATES = {"ok", "warning", "error"}


def examine(folder: Path, **env: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """The exit code, and the findings by check."""
    ports = {"LDM_PORT": str(free_port()), "LDM_METRICS_PORT": str(free_port()), "LDM_DATA_DIR": str(folder / "data")}
    done = ldm("doctor", "--json", cwd=folder, **{**ports, **env})
    assert done.stderr == b"", done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.stdout):
        assert finding["state"] in STATES and (finding["state"] == "ok") == (not finding["todo"])
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found


def states(found: list[dict[str, str]]) -> set[str]:
    return {finding["state"] for finding in found}


@pytest.mark.slow
def test_a_sound_installation_has_a_line_for_each_check(tmp_path: Path) -> None:
    code, found = examine(tmp_path)
    assert code == 0
    wanted = ["python", "packages", "torch", "kernels", "settings", "redis", "models", "ports", "disk", "memory"]
    assert list(found) == wanted
    assert [finding["said"].split()[0] for finding in found["models"]] == ["scenes", "scenes-superres"]
    assert not list(tmp_path.iterdir())  # it only looks


@pytest.mark.slow
def test_a_broken_installation_is_told_of_too(tmp_path: Path) -> None:
    """Without Redis' library, and with a torch that dies when it is imported."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['redis'] = None")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object')")
    path = f"{tmp_path}:{ROOT}:{ROOT / 'clients' / 'python'}"
    code, found = examine(tmp_path, PYTHONPATH=path)
    assert code == 1
    assert found["packages"][0]["said"] == "not installed: redis" and "make install" in found["packages"][0]["todo"]
    assert "libcudart.so.13: cannot open shared object" in found["torch"][0]["said"]
    assert states(found["redis"]) == {"error"} and "redis" in found["redis"][0]["said"]


@pytest.mark.slow
def test_what_an_installation_runs_with_is_judged(tmp_path: Path, redis_url: str, redis_config: Any) -> None:
    redis_config("maxmemory-policy", "allkeys-lru")
    redis_config("maxmemory", 10**9)
    redis_config("appendonly", "no")
    (tmp_path / "file").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = {"LDM_REDIS_URL": redis_url, "LDM_MODEL": str(tmp_path / "none"), "LDM_PORT": port}
        code, found = examine(tmp_path, LDM_DATA_DIR=str(tmp_path / "file"), LDM_PROT="8000", **given)
    assert code == 1
    assert [finding["state"] for finding in found["redis"]] == ["ok", "error", "warning"]
    assert "allkeys-lru" in found["redis"][1]["said"] and "appendonly" in found["redis"][2]["said"]
    assert states(found["models"]) == {"error"} and str(tmp_path / "none") in found["models"][0]["said"]
    assert f"LDM_PORT={port} cannot be had" in found["ports"][0]["said"]
    assert found["settings"][0]["todo"] == "did you mean LDM_PORT?"
    assert states(found["disk"]) == {"error"}


def torch(cuda: str | None, *cards: str) -> dict[str, Any]:
    return {"version": "2.13.0", "cuda": cuda, "found": bool(cards), "cards": list(cards)}


@pytest.mark.parametrize(
    ("told", "driver", "card", "device", "state", "todo"),
    [
        (torch("13.0", "H200"), "580.1", True, "auto", "ok", ""),
        (torch(None), "", False, "auto", "ok", ""),
        (torch(None), "580.1", True, "auto", "warning", "install torch's CUDA build"),
        (torch(None), "580.1", True, "cuda", "error", "install torch's CUDA build"),
        (torch(None), "", False, "cuda:1", "error", "install torch's CUDA build"),
        (torch("13.0"), "", False, "auto", "warning", "none needed"),
        (torch("13.0"), "", False, "cuda", "error", "set LDM_DEVICE=cpu"),
        (torch("13.0"), "", True, "auto", "warning", "install NVIDIA's driver"),
        (torch("13.0"), "450.1", True, "cuda", "error", "the driver (450.1) may be too old"),
    ],
)
def test_torch_driver_and_card_have_to_match(
    monkeypatch: pytest.MonkeyPatch, told: Any, driver: str, card: bool, device: str, state: str, todo: str
) -> None:
    monkeypatch.setattr(doctor_installation, "_driver", lambda: driver)
    monkeypatch.setattr(doctor_installation, "_has_card", lambda: card)
    finding = doctor_installation._of_cuda(told, device)
    assert (finding.state, finding.todo[: len(todo)]) == (state, todo)
    assert bool(finding.todo) == bool(todo)


@pytest.mark.parametrize(
    ("name", "value", "state", "said"),
    [
        ("LDM_DATADIR", "/data", "warning", "LDM_DATADIR is set and unknown"),
        ("LDM_COMPILE", "1", "warning", "LDM_COMPILE is no longer a setting"),
        ("LDM_PORT", "http", "error", "LDM_PORT=http: "),
        ("LDM_API_KEYS", "alice:short", "error", "LDM_API_KEYS: entry 1"),
        ("LDM_SERVER", "http://a", "ok", "1 LDM_ variables are set"),
    ],
)
def test_settings_are_known_and_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, state: str, said: str
) -> None:
    for known in [each for each in os.environ if each.startswith("LDM_")]:
        monkeypatch.delenv(known)
    monkeypatch.setenv(name, value)
    (finding,) = doctor_surroundings.check_settings()
    assert (finding.state, finding.said[: len(said)]) == (state, said)


def test_a_port_that_is_ours_is_no_trouble() -> None:
    port = free_port()
    finding = doctor_surroundings._of_port("127.0.0.1", port, "LDM_PORT", "/healthz", b"status")
    assert finding == Finding("ports", "ok", f"LDM_PORT={port} is free")


def test_a_redis_that_is_not_there_is_named(tmp_path: Path) -> None:
    (finding,) = doctor_surroundings._of_redis(f"unix://{tmp_path}/none.sock", "LDM_REDIS_URL")
    assert finding.state == "error" and finding.said.startswith("LDM_REDIS_URL cannot be used: ")


def breaking(error: Exception) -> Callable[[], Any]:
    def check() -> Any:
        raise error
        yield

    return check


def test_a_check_that_breaks_ends_no_other() -> None:
    sound = breaking(ValueError("odd"))
    found = list(examined([("a", breaking(ImportError("no module"))), ("b", sound), ("c", lambda: iter(()))]))
    assert [(finding.check, finding.state) for finding in found] == [("a", "error"), ("b", "error")]
    assert "no module" in found[0].said and "odd" in found[1].said
