"""The requests of README.md, run as they stand there, against the service that `make run` starts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.documents import ROOT, commands
from tests.end_to_end.serving import Served

REQUESTS = [command for command in commands() if command.startswith("curl ") and " -o " in command]


def test_there_is_a_request_for_each_task_of_the_built_in_models() -> None:
    tasks = {task for command in REQUESTS for task in re.findall(r"/v1/(\w+)", command)}
    assert tasks >= {"txt2img", "inpaint", "superres"}


@pytest.mark.parametrize("command", REQUESTS)
def test_a_request_makes_the_image_that_it_names(builtin: Served, command: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    here = command.replace("localhost:8000", builtin.url.removeprefix("http://")).replace("curl ", "curl -sS -f ", 1)
    subprocess.run(["bash", "-c", here], cwd=tmp_path, check=True, timeout=120)
    (name,) = re.findall(r"-o (\S+)", command)
    image = Image.open(tmp_path / name)
    assert image.format == "PNG"
    assert len(set(image.convert("RGB").get_flattened_data())) > 100
