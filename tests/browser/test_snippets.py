"""What the page gives to copy runs as it stands."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.visitor import KEY, Visitor
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow
Visit = Callable[..., Visitor]


def run(code: str, language: str, folder: Path) -> None:
    done = outcome(code, language, folder)
    assert done.returncode == 0, done.stderr


def outcome(code: str, language: str, folder: Path) -> subprocess.CompletedProcess[str]:
    commands = {"curl": ["bash", "-c", code], "Python": [sys.executable, "-c", code]}
    commands["JavaScript"] = ["node", "--input-type=module", "-e", code]
    command = commands[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    env = os.environ | {"LDM_API_KEY": KEY}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def copied(visitor: Visitor, language: str) -> str:
    visitor.page.get_by_role("button", name=language, exact=True).click()
    visitor.button("Copy").click()
    expect(visitor.button("Copied")).to_be_visible()
    expect(visitor.button("Copy")).to_be_visible()
    return str(visitor.page.evaluate("navigator.clipboard.readText()"))


def the_same_from_all(visitor: Visitor, folder: Path, name: str) -> None:
    visitor.button("Code").click()
    for link in visitor.page.locator("dialog a[download]").all():
        _, _, data = (link.get_attribute("href") or "").partition(",")
        (folder / (link.get_attribute("download") or "")).write_bytes(base64.b64decode(data))
    made = set()
    for language in ("curl", "Python", "JavaScript"):
        run(copied(visitor, language), language, folder)
        made.add(Image.open(folder / name).tobytes())
        (folder / name).unlink()
    visitor.page.keyboard.press("Escape")
    expect(visitor.page.locator("dialog")).to_have_count(0)
    assert len(made) == 1


def test_all_three_draw_the_same_image(all_tasks: Served, visit: Visit, tmp_path: Path) -> None:
    visitor = visit(all_tasks, permissions=["clipboard-read", "clipboard-write"])
    visitor.fill("Prompt", 'a "red" house, it\'s $HOME\\n by the sea')
    visitor.page.locator("form").get_by_text("More", exact=True).click()
    visitor.page.get_by_label("Format").select_option("jpeg")
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    the_same_from_all(visitor, tmp_path, "out.jpg")
    visitor.task("Inpaint")
    visitor.page.get_by_label("Format").select_option("png")
    visitor.button("Take the example").click()
    visitor.button("Mark everything").click()
    visitor.without_enlarging()
    visitor.send()
    visitor.finished(2)
    the_same_from_all(visitor, tmp_path, "out.png")
    visitor.task("Layout")
    visitor.button("Add a box").click()
    visitor.fill("Steps", 4)
    visitor.without_enlarging()
    visitor.send()
    visitor.finished(3)
    the_same_from_all(visitor, tmp_path, "out.png")


def test_what_is_refused_is_told_by_all_three(all_tasks: Served, visit: Visit, tmp_path: Path) -> None:
    visitor = visit(all_tasks, permissions=["clipboard-read", "clipboard-write"])
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", 4)
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    visitor.button("Code").click()
    for language in ("curl", "Python", "JavaScript"):
        code = copied(visitor, language)
        wrong = re.sub(r'("?steps"?: ?)4', r"\g<1>1001", code)
        assert wrong != code
        done = outcome(wrong, language, tmp_path)
        assert done.returncode != 0
        assert "1000" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_key_is_read_from_the_environment(keyed: Served, visit: Visit, tmp_path: Path) -> None:
    visitor = visit(keyed, refusals=True, permissions=["clipboard-read", "clipboard-write"])
    visitor.sign_in(KEY)
    visitor.fill("Prompt", "a house")
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    visitor.button("Code").click()
    expect(visitor.page.get_by_role("dialog")).to_be_visible()
    assert KEY not in visitor.page.locator("dialog").inner_text()
    visitor.page.keyboard.press("Escape")
    expect(visitor.page.locator("dialog")).to_have_count(0)
    the_same_from_all(visitor, tmp_path, "out.png")
