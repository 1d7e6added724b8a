"""benchmarks.gpu on a CPU, so that it does not first fail where there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMAND = "benchmarks.gpu --device cpu --dtype float32 --models scenes --rows 4 --rounds 1 --eager --parts images steps"


def test_the_gpus_benchmark_runs_on_a_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", *COMMAND.split()], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    about, images, *steps = map(json.loads, done.stdout.splitlines())
    assert about["device"] == "cpu"
    assert images["same_latents_alone"] and images["images_s"] > 0
    assert [each["label"] for each in steps] == ["ours", "diffusers"]
