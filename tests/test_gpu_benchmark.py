"""The benchmark for GPUs, so that it does not first fail where it is wanted: its stages, apart, and its table."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.isolation import TOLD, run_stages
from benchmarks.gpu.table import FIGURES, table

ROOT = Path(__file__).parents[1]
# its child holds the lock of a file
FORKS = """
import fcntl, subprocess, sys
with open({lock!r}, "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[file.fileno()])
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_stage_that_fails_says_why_and_lets_the_next_begin(capfd: pytest.CaptureFixture[str]) -> None:
    stages = {
        "raises": python("raise ValueError('no such layer')"),
        "dies": python("import os; os.abort()"),
        "says so itself": python(f"print('[]'); raise SystemExit({TOLD})"),
        "ends well": python("print('{\"ms\": 1}')"),
    }
    assert not run_stages(stages, dict.fromkeys(stages, 1), budget_s=40)
    raised, died, *told, measured, ended = lines_of(capfd)
    assert "ValueError: no such layer" in raised["failed"] and "exit code 1" in raised["failed"]
    assert "exit code -6" in died["failed"]
    assert told == [[], told[1]] and told[1]["failed"] == "a line above says why"
    assert measured == {"ms": 1} and ended["stage"] == "ends well" and "failed" not in ended


def test_a_stage_that_hangs_is_ended_with_its_children(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    stages = {"hangs": python(FORKS.format(lock=str(lock))), "ends well": python("")}
    assert not run_stages(stages, {"hangs": 1, "ends well": 3}, budget_s=12)
    hung, ended = lines_of(capfd)
    assert "its time was up" in hung["failed"] and "failed" not in ended
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while anybody holds it


def test_a_stage_without_time_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert not run_stages({"late": python("")}, {"late": 1}, budget_s=0.5)
    assert lines_of(capfd) == [{"stage": "late", "took_s": 0.0, "failed": "no time is left"}]


def test_the_table_shows_what_was_measured_beside_what_is_asked() -> None:
    card = {"environment": "a card"}
    lines = [
        {"stage": "images", "model": "sd1-512", "rows": 16, "images_s": 5.25, "lone_s": 0.5, **card},
        {"stage": "images", "model": "sd1-512", "rows": 2, "images_s": 2.0, "lone_s": 0.4, **card},
        {"stage": "images", "model": "superres-256", "rows": 32, "images_s": 41.0, "lone_s": 0.4, **card},
        {"stage": "images", "model": "superres-256", "rows": 16, "images_s": 39.0, "lone_s": 0.4, **card},
        {"stage": "bits", "model": "sd1-512", "all_same": False, **card},
        {"stage": "start", "model": "sd1-512", "failed": "no kernel", **card},
    ]
    shown = table(map(json.dumps, lines))
    assert "Measured on a card." in shown and "- start: no kernel" in shown
    assert "50 steps, guidance, 16 rows | ≥ 4.2 images/s | 5.25 images/s |" in shown
    assert "one job alone | ≤ 0.6 s | 0.4 s, 2 rows |" in shown
    assert "100 steps | ≥ 40 images/s | 41 images/s, 32 rows |" in shown
    assert "Stable Diffusion 1.x, 512² | all | no |" in shown
    assert shown.count("| not measured |") == len(FIGURES) - 4
    with pytest.raises(ValueError, match="different environments"):
        table([json.dumps(card), json.dumps({"environment": "another"})])


def test_the_kept_results_have_every_figure_and_say_whether_a_gpu_was_at_hand() -> None:
    kept, empty = (ROOT / "benchmarks/results/gpu.md").read_text(), table([])
    assert figures_of(kept) == figures_of(empty)
    assert ("Never run on a GPU" in kept) == (kept.count("| not measured |") == len(FIGURES))


def figures_of(shown: str) -> list[list[str]]:
    """Each line's figure, and what is asked of it."""
    return [line.split(" | ")[:2] for line in shown.splitlines() if line.startswith("|")]
