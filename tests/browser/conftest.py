"""A headless Chromium, and services for its pages: one with a model for every task, and fresh ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from ldm_core.checkpoints import import_checkpoint
from tests.browser.visitor import KEY, Visitor
from tests.end_to_end.serving import ROOT, Served, serving
from tests.tiny import write_tiny_models

DATA = ROOT / "tests/golden/data"
FAMILIES = ("v-class", "v-layout", "v-semantic", "v-uncond")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Ends with its module: while Playwright runs, its event loop counts as running, and no asynchronous test can."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """With the words of the built-in model, so that the page shows some."""
    written = write_tiny_models(tmp_path_factory.mktemp("models"))
    known = json.loads((ROOT / "ldm_core/builtin/scenes/service.json").read_text())["vocabulary"]
    service = written[0] / "service.json"
    service.write_text(json.dumps(json.loads(service.read_text()) | {"vocabulary": known}))
    return written


@pytest.fixture(scope="session")
def all_tasks(tmp_path_factory: pytest.TempPathFactory, tiny_dirs: list[Path]) -> Iterator[Served]:
    """Small models of random weights for every task there is."""
    folder = tmp_path_factory.mktemp("families")
    others = [
        import_checkpoint(DATA / name / "model.ckpt", DATA / name / "model.yaml", folder / name) for name in FAMILIES
    ]
    with serving(tmp_path_factory.mktemp("served") / "data", [*tiny_dirs, *others], beat_s=1) as service:
        yield service


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory, tiny_dirs: list[Path]) -> Iterator[Served]:
    """A service that asks for a key."""
    data = tmp_path_factory.mktemp("keyed") / "data"
    with serving(data, tiny_dirs, host="0.0.0.0", api_keys=f"alice:{KEY}") as service:
        yield service


@pytest.fixture
def serve(tmp_path: Path, tiny_dirs: list[Path]) -> Iterator[Callable[..., Served]]:
    """Starts a service with tiny models. A second one in the same test has the same data folder."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        started.append(Served(tmp_path / "data", tiny_dirs, **settings))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for service in started:
        service.stop()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """Opens the page of a service. In the end nothing was asked of anybody else, and no error was in the console."""
    visitors: list[Visitor] = []

    def open_page(service: Served, path: str = "/", *, refusals: bool = False, **context: object) -> Visitor:
        visitors.append(Visitor(chromium, service, path, refusals=refusals, **context))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.leave()
