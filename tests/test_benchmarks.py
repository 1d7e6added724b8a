"""Benchmarks run, so that they do not first fail where they are wanted: that of GPUs runs on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GPU = "benchmarks.gpu --device cpu --dtype float32 --models scenes --rows 4 --rounds 1 --eager --parts images steps"


def test_the_gpus_benchmark_runs_on_a_cpu() -> None:
    done = subprocess.run([sys.executable, "-m", *GPU.split()], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    about, images, *steps = map(json.loads, done.stdout.splitlines())
    assert about["device"] == "cpu"
    assert images["same_latents_alone"] and images["images_s"] > 0
    assert [each["label"] for each in steps] == ["ours", "diffusers"]


def test_jobs_can_be_watched_over_free_networks_and_over_the_built_in_model() -> None:
    command = [sys.executable, "-m", "benchmarks.watching", "--rounds", "1", "--builtin-steps", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["event_latency_p50_ms"] > 0
    assert 1 <= told["first_preview_step"] <= 100
