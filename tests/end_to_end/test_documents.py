"""The examples of README.md and of docs/, run as they stand there, against the service that `make run` starts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.documents import PAGES, README, ROOT, blocks_of
from tests.end_to_end.page_script import RUN, matches, script_of
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow

TIMEOUT_S = 170
# Small models of random weights stand for the files that a reader downloads.
STAND_INS = {
    "v1-5-pruned-emaonly.ckpt": "model.ckpt", "v1-inference.yaml": "model.yaml", "clip-tiny": "clip-tiny",
}  # fmt: skip
RUN_HERE = [page for page in PAGES if any(b.language in RUN and b.marker in {"", "fails"} for b in blocks_of(page))]


def environment(url: str) -> dict[str, str]:
    """That of a reader who has installed the service and its client, and set nothing."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LDM_")}
    path = f"{Path(sys.executable).parent}:{own['PATH']}"
    packages = f"{ROOT}:{ROOT / 'clients' / 'python'}"
    return own | {"PATH": path, "PYTHONPATH": packages, "LDM_DEVICE": "cpu", "LDM_SERVER": url}


def run(script: str, folder: Path, env: dict[str, str]) -> None:
    """Runs a script to its end, with all that it started. Fails with what the last block printed."""
    with subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as bash:  # fmt: skip
        try:
            said = bash.communicate(timeout=TIMEOUT_S)[0]
        except subprocess.TimeoutExpired:
            said = f"it took longer than {TIMEOUT_S} s"
            os.killpg(bash.pid, signal.SIGKILL)
    outputs = sorted(folder.glob("output-*"), key=lambda path: path.stat().st_mtime)
    assert bash.returncode == 0, (said, outputs and (outputs[-1].name, outputs[-1].read_text()))


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_the_examples_of_a_page_do_what_it_says(builtin: Served, page: Path, tmp_path: Path) -> None:
    if any(block.language == "js" and not block.marker for block in blocks_of(page)) and not shutil.which("node"):
        pytest.skip("there is no Node")
    for name, stand_in in STAND_INS.items():
        (tmp_path / name).symlink_to(ROOT / "tests/golden/data/v-sd1" / stand_in)
    script = script_of(blocks_of(page), builtin.url, tmp_path)
    run(script.text, tmp_path, environment(builtin.url))
    for block, path in script.outputs:
        assert matches(path.read_text(), block), (str(block), path.read_text())
    for path in tmp_path.glob("*.png"):
        image = Image.open(path)
        assert image.format == "PNG" and len(set(image.convert("RGB").get_flattened_data())) > 100, path.name


def test_the_readme_has_a_request_for_each_task_of_the_built_in_models() -> None:
    assert {"txt2img", "inpaint", "superres"} <= set(re.findall(r"/v1/(\w+)", README.read_text()))


def test_the_page_is_where_it_is_said_to_be(builtin: Served) -> None:
    assert "<http://localhost:8000/>" in README.read_text()
    assert '<div id="app">' in builtin.http.get("/").raise_for_status().text
