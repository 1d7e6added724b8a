"""ldm-client as a distribution of its own: what is in it, what it needs, and what of it the service ships."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ldm_client
from ldm_client import fields
from service.intake.tasks import REQUESTS

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "clients" / "python"
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
TYPES = (ROOT / "clients" / "javascript" / "ldm-client.d.ts").read_text()
MODULES = sorted((CLIENT / "ldm_client").glob("*.py"))


def test_its_version_is_told_the_same_everywhere() -> None:
    assert ldm_client.__version__ == PROJECT["version"]


def test_it_needs_httpx_alone() -> None:
    (needed,) = PROJECT["dependencies"]
    assert Requirement(needed).name == "httpx"
    program = "import sys, ldm_client; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=CLIENT, capture_output=True, text=True, check=True)
    assert not {"PIL", "pydantic", "service", "worker", "ldm_core"} & set(done.stdout.split())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_written_for_the_oldest_python_that_is_promised(path: Path) -> None:
    assert PROJECT["requires-python"] == ">=3.10"
    ast.parse(path.read_text(), feature_version=(3, 10))
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.slow
def test_its_wheel_has_the_package_and_its_types(tmp_path: Path) -> None:
    shutil.copytree(CLIENT, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(tmp_path / "source")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ldm_client-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == {
        f"ldm_client/{path.name}" for path in (CLIENT / "ldm_client").iterdir() if path.suffix in {".py", ".typed"}
    }


def test_the_service_s_wheel_and_images_have_the_package_and_nothing_else_of_the_clients() -> None:
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert service["where"] == [".", "clients/python"]
    assert {"ldm_client*"} == {
        pattern for pattern in service["include"] if pattern.startswith(("*", "clients", "ldm_cl"))
    }
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent and [line for line in sent if "clients" in line] == ["!clients/python/ldm_client"]


def typed(method: str) -> set[str]:
    """The names of all that a method of the Python client takes."""
    parameters = inspect.signature(getattr(ldm_client.Client, method)).parameters
    (given,) = re.findall(r"Unpack\[(\w+)\]", parameters["fields"].annotation)
    return {*parameters, *getattr(fields, given).__annotations__}


@pytest.mark.parametrize("task", REQUESTS)
def test_every_field_that_a_task_takes_is_typed(task: str) -> None:
    known = typed(task) | (typed("img2img") if task == "txt2img" else set())
    other_names = {"class2img": {"class_id", "class_name"}, "semantic2img": {"map"}}.get(task, set())
    with_text = task in {"txt2img", "inpaint", "superres"}
    assert REQUESTS[task].model_fields.keys() - known <= other_names | (set() if with_text else {"prompt"})
    if with_text:
        assert REQUESTS[task].model_fields.keys() <= {*re.findall(r"(\w+)\??: ", TYPES)}
