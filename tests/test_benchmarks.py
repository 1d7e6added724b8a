"""Benchmarks run, so that they do not first fail where they are wanted: that of GPUs runs on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import run_here
from benchmarks.gpu.workloads import Bench
from tests.pretended_cuda import pretended_cuda

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GPU = "benchmarks.gpu --device cpu --model scenes --rows 2 8 --compiled-rows 2 --rounds 2 --budget 1200"
COMMON = {"stage", "model", "environment"}
KEYS = {  # of each stage's lines beside stage, model and environment, in their order
    "env": [{"release", "python", "threads", "versions", "tflops"}],
    "images": [
        {"rows", "jobs", "steps", "prepare_s", "images_s", "lone_s", "same_bytes_alone", "peak_gib"},
        {"rows", "jobs", "steps", "prepare_s", "images_s", "lone_s", "same_bytes_alone", "peak_gib"},
    ],
    "steps": [{"rows", "ms", "x_diffusers", "floor", "needs_cuda"}] * 2,
    "bits": [
        {"counts", "trial_s", "layers", "in_pieces", "most_rows"},
        {"inputs", "same_rows", "all_same", "finite"},
    ],
    "decode": [{"ms", "x_diffusers"}],
    "p99": [{"rows", "steps", "alone_ms", "beside_decodes_ms", "decodes_s"}],
    "start": [{"kernels", "loaded_s", "ready_s"}],
    "kernels": [{"needs_cuda"}],
    "compiled": [{"rows", "mode", "prepare_s", "ms", "x_compiled"}],
}


def test_all_stages_of_the_gpus_benchmark_run_on_a_cpu() -> None:
    done = subprocess.run([sys.executable, "-m", *GPU.split()], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    *results, ended = map(json.loads, done.stdout.splitlines())
    assert ended["stages"] == len(KEYS) and not [each for each in results if "failed" in each]
    found = lines_by_stage(results)
    found["bits"] = [each for each in found["bits"] if "layer" not in each]  # layers in pieces: whichever there are
    assert {stage: [each.keys() - COMMON for each in lines] for stage, lines in found.items()} == KEYS
    assert all(each["same_bytes_alone"] and each["images_s"] > 0 for each in found["images"])
    assert found["bits"][-1]["all_same"] and found["bits"][-1]["finite"]


def test_stages_run_on_a_pretended_gpu_where_calls_are_captured(capsys: pytest.CaptureFixture[str]) -> None:
    with pretended_cuda() as gpu:
        bench = Bench(torch.device("cuda"), torch.float32, rows=(2, 8), rounds=1)
        assert run_here(bench, ["images", "decode"], ["scenes"])
        assert gpu.graphs
    found = lines_by_stage(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [each["same_bytes_alone"] for each in found["images"]] == [True, True]
    assert found["decode"][0]["ms"].keys() == {"ours", "diffusers", "ours to 8 bits"}


def lines_by_stage(results: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results by stage, without the line with which a stage ends."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in results:
        if "took_s" not in each:
            found.setdefault(each["stage"], []).append(each)
    return found


def test_jobs_can_be_watched_over_free_networks_and_over_the_built_in_model() -> None:
    command = [sys.executable, "-m", "benchmarks.watching", "--rounds", "1", "--builtin-steps", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["event_latency_p50_ms"] > 0
    assert 1 <= told["first_preview_step"] <= 100
