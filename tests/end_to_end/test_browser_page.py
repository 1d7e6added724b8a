"""The page of the documentation, in Chromium, with its server and a service on another origin that asks for a key."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.documents import DOCS, blocks_of
from tests.end_to_end.page_script import script_of
from tests.end_to_end.serving import Served, eventually, free_port

pytestmark = pytest.mark.slow

PAGE = DOCS / "browser.md"
KEY = "ldm_website-0123456789"
SIZE = "document.querySelector('img').naturalWidth"


@contextmanager
def app(folder: Path) -> Iterator[None]:
    """The page's own server, as a reader starts it."""
    with subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=os.environ | {"LDM_API_KEY": KEY}) as server:
        try:
            yield
        finally:
            server.kill()


def test_the_page_draws_with_previews_and_says_what_is_wrong(serve: Callable[..., Served], tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium on PATH")
    origin = f"http://localhost:{(port := free_port())}"
    blocks = blocks_of(PAGE)
    started = [block.text for block in blocks if block.marker == "run by tests/end_to_end/test_browser_page.py"]
    assert "LDM_CORS_ORIGINS=http://localhost:9000" in started[0] and "python app.py" in started[1]
    service = serve(api_keys=f"website:{KEY}", cors_origins=origin)
    service.wait_until_ready()
    script_of(blocks, service.url, tmp_path, receiver=port)
    with app(tmp_path), api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        eventually(lambda: reached(port))
        page.goto(origin)
        page.get_by_label("Prompt").fill("a (red:1.3) house")
        page.get_by_role("button").click()
        page.get_by_text("is read as plain text").wait_for(timeout=60_000)
        page.wait_for_function(f"{SIZE} === 64 && !document.querySelector('img').src.startsWith('data:')")
        assert page.evaluate("document.querySelector('progress').value") == 1
        page.get_by_label("Prompt").fill("x" * 2001)
        page.get_by_role("button").click()
        page.get_by_text("at most 2000").wait_for()
        browser.close()


def reached(port: int) -> bool:
    """Whether the page's server is there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
