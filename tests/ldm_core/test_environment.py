"""OpenMP and MKL find their settings before torch loads them, unless the operator has made others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_core.environment import REPRODUCIBLE, SPINS, WORKSPACE, set_up

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG")
# what a worker's process has in its environment at the moment in which it begins to import torch
SEEN = """
import builtins, os, runpy, sys

def importing(name, *args, import_module=builtins.__import__, **kwargs):
    if name == "torch":
        print(*(os.environ.get(name, "-") for name in sys.argv[1:]))
        os._exit(0)
    return import_module(name, *args, **kwargs)

builtins.__import__ = importing
runpy.run_module(MODULE, run_name="not main")
"""


def seen(module: str, **given: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
    return subprocess.run(
        [sys.executable, "-c", f"MODULE = {module!r}\n{SEEN}", *NAMES],
        cwd=Path(__file__).parents[2], env=environment, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip


@pytest.mark.parametrize(
    "module", ["worker.process.prefork", "worker.process.main", "ldm_core.model", "benchmarks.step"]
)
def test_settings_are_there_before_torch(module: str) -> None:
    assert seen(module) == ["-", SPINS, REPRODUCIBLE, WORKSPACE]


def test_an_operators_own_values_stay() -> None:
    given = {"GOMP_SPINCOUNT": "7", "MKL_CBWR": "COMPATIBLE", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    assert seen("worker.process.prefork", **given) == ["-", *given.values()]
    assert seen("worker.process.prefork", OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "-", REPRODUCIBLE, WORKSPACE]


def test_nothing_is_set_that_would_have_no_effect() -> None:
    import torch  # noqa: F401

    environment: dict[str, str] = {}
    set_up(environment)
    assert not environment


def test_an_empty_setting_of_the_hub_is_none() -> None:
    given = {"HF_ENDPOINT": "", "HF_HOME": "", "HF_TOKEN": "secret", "LDM_MODEL": ""}
    set_up(given)
    assert given == {"HF_TOKEN": "secret", "LDM_MODEL": ""} | {n: v for n, v in given.items() if n in NAMES}
