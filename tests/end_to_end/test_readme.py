"""The requests of README.md, run as they stand there, against the service that `make run` starts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.documents import README, ROOT, blocks, commands
from tests.end_to_end.serving import Served

MARK = "trainedAlgorithmicMedia"
FILE = re.compile(r" (?:-o|>) (\S+)$")
REQUESTS = [command for command in commands() if command.startswith("curl ") and FILE.search(command)]


def test_there_is_a_request_for_each_task_of_the_built_in_models() -> None:
    tasks = {task for command in REQUESTS for task in re.findall(r"/v1/(\w+)", command)}
    assert tasks >= {"txt2img", "inpaint", "superres"}


@pytest.mark.parametrize("command", REQUESTS)
def test_a_request_makes_the_image_that_it_names(builtin: Served, command: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    here = command.replace("localhost:8000", builtin.url.removeprefix("http://")).replace("curl ", "curl -sS -f ", 1)
    subprocess.run(["bash", "-c", here], cwd=tmp_path, check=True, timeout=120)
    (name,) = FILE.findall(command)
    image = Image.open(tmp_path / name)
    assert image.format == "PNG"
    assert len(set(image.convert("RGB").get_flattened_data())) > 100


def test_the_page_is_where_it_is_said_to_be(builtin: Served) -> None:
    assert "<http://localhost:8000/>" in README.read_text()
    assert '<div id="app">' in builtin.http.get("/").raise_for_status().text


def test_an_image_says_that_a_trained_model_made_it(builtin: Served) -> None:
    (command,) = [command for command in commands() if command.startswith("curl ") and MARK in command]
    here = command.replace("localhost:8000", builtin.url.removeprefix("http://"))
    assert subprocess.run(["bash", "-c", here], check=True, capture_output=True, text=True).stdout == f"{MARK}\n"


PAGE = """
globalThis.document = { querySelector: () => ({ set src(url) { void show(url); } }) };
const show = async (url) => {
  const shown = await fetch(url);
  console.log(JSON.stringify({ status: shown.status, type: shown.headers.get("content-type") }));
};
"""


def test_a_page_shows_an_image_with_signed_urls(serve: Callable[..., Served], tmp_path: Path) -> None:
    """In Node, whose EventSource is that of browsers; a page's `<img>` is played by a fetch."""
    node = shutil.which("node")
    if node is None or subprocess.run([node, "--experimental-eventsource", "-e", ""], check=False).returncode:
        pytest.skip("there is no Node with EventSource")
    key = "ldm_alice-0123456789"
    service = serve(api_keys=f"alice:{key}")
    service.wait_until_ready()
    (script,) = blocks("js")
    program = tmp_path / "page.mjs"
    program.write_text(f"const KEY = {json.dumps(key)};{PAGE}{script.replace('http://localhost:8000', service.url)}")
    ran = subprocess.run(
        [node, "--experimental-eventsource", str(program)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.stdout, ran.stderr
    assert json.loads(ran.stdout) == {"status": 200, "type": "image/png"}
