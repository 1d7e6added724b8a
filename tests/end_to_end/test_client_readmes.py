"""The snippets of the clients' README files, run as they stand there against the service that `make run` starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import BLOCK, ROOT
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow


def snippets(document: str, language: str) -> str:
    """All blocks of a language, one program in the order of the page."""
    return "\n".join(text for named, text in BLOCK.findall((ROOT / document).read_text()) if named == language)


def run(command: list[str], builtin: Served, folder: Path) -> str:
    (folder / "examples").symlink_to(ROOT / "examples")
    env = os.environ | {"LDM_SERVER": builtin.url, "PYTHONPATH": str(ROOT / "clients" / "python")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_client_s_page(builtin: Served, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(snippets("clients/python/README.md", "python"))
    told = run([sys.executable, "page.py"], builtin, tmp_path)
    assert "256 []" in told and "succeeded" in told and "with a preview" in told
    assert "FieldError(pointer='/steps', detail='should be less than or equal to 1000')" in told
    assert len(list(tmp_path.glob("*.png"))) == 3
