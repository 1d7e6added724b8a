"""What an install brings: pins for all of it, no torch in the base, and the data that the packages need."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

from service.routes.docs import ASSETS
from service.routes.playground import ASSETS as PAGE_ASSETS
from service.routes.playground import FOLDER

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(text) for text in texts] for extra, texts in PROJECT["project"]["optional-dependencies"].items()
}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def installed_with(requirements: list[Requirement]) -> set[str]:
    """The names of everything that installing `requirements` here brought in, as far as it is installed."""
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or name in seen:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        seen.add(name)
        waiting += [Requirement(text) for text in needs]
    return seen


def test_everything_that_an_install_brings_is_pinned_exactly() -> None:
    known = pins()
    everything = installed_with([*BASE, *(r for group in EXTRAS.values() for r in group)])
    # torch requires its own CUDA libraries by exact version, and only where it is built for CUDA.
    cuda = {name for name in everything if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert everything - cuda <= set(known)
    assert all([s.operator for s in pin.specifier] == ["=="] and "*" not in str(pin) for pin in known.values())


def test_every_pin_lies_within_the_range_that_the_project_declares() -> None:
    known = pins()
    for requirement in [*BASE, *(r for group in EXTRAS.values() for r in group)]:
        (pin,) = known[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement


def test_the_base_install_has_no_torch_and_can_check_images() -> None:
    base = installed_with(BASE)
    assert "pillow" in base
    assert not base & {"torch", "transformers", "safetensors", "tokenizers", "numpy"}


@pytest.mark.parametrize("package", ["ldm_core", "service", "worker"])
def test_each_package_tells_type_checkers_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_what_the_built_in_models_need_is_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["ldm_core"]
    assert "builtin/**" in patterns
    for card in (ROOT / "ldm_core" / "builtin").glob("*/model_index.json"):
        assert list(card.parent.rglob("*.safetensors")), f"{card.parent.name} has no weights"


def test_what_the_page_of_the_api_needs_is_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["service"]
    shipped = {path.name for pattern in patterns for path in (ROOT / "service").glob(pattern)}
    assert shipped >= {*ASSETS, "LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"}
    assert sum(path.stat().st_size for path in (ROOT / "service" / "swagger_ui").iterdir()) < 2.5e6


def test_what_the_page_of_the_gateway_needs_is_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["service"]
    shipped = {path for pattern in patterns for path in (ROOT / "service").glob(pattern)}
    assert shipped >= {FOLDER / name for name in PAGE_ASSETS} | {FOLDER / "index.html", FOLDER / "vendor/LICENSES.txt"}


def test_every_script_for_redis_is_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["worker"]
    shipped = {path for pattern in patterns for path in (ROOT / "worker").glob(pattern)}
    assert shipped >= set(ROOT.glob("worker/**/*.lua")) and shipped > {ROOT / "worker/py.typed"}


def test_the_built_in_weights_stay_small_enough_for_the_repository() -> None:
    weights = (ROOT / "ldm_core" / "builtin").rglob("*.safetensors")
    assert sum(path.stat().st_size for path in weights) <= 60e6


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in told for target in phony.split())


def test_a_wheel_has_every_room_and_no_training() -> None:
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    found = [name for where in find["where"] for name in find_packages(str(ROOT / where), include=find["include"])]
    packages = ("ldm_core", "service", "worker")
    rooms = {".".join(p.parent.relative_to(ROOT).parts) for name in packages for p in (ROOT / name).rglob("*.py")}
    assert set(found) == rooms | {"ldm_client"}
