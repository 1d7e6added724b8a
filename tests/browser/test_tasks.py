"""Every task of the page, from the form to the image."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.visitor import KEY, Visitor
from tests.end_to_end.serving import Served, picture

pytestmark = pytest.mark.slow
Visit = Callable[..., Visitor]
FILLED = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, i) => i % 4 === 3 && value > 0).length / (data.length / 4);
}"""


def test_a_prompt_becomes_an_image_that_is_watched(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.fill("Prompt", "a red house")
    visitor.page.get_by_text("words it knows").click()
    visitor.button("sea").click()
    visitor.fill("Steps", 400)
    visitor.fill("Seed", 7)
    visitor.fill("Images", 2)
    visitor.without_enlarging()
    visitor.send()
    expect(visitor.page.locator(".preview")).to_be_visible()
    expect(visitor.page.get_by_text("Step ").first).to_be_visible()
    visitor.finished()
    request = visitor.newest()["request"]
    assert (request["prompt"], request["steps"], request["seed"], request["n"]) == ("a red house sea", 400, 7, 2)
    assert request["upscale"] is False
    visitor.button("Image 2, seed 8").click()
    expect(visitor.page.get_by_role("button", name="seed 8", exact=True)).to_be_visible()


def test_what_is_drawn_is_varied_enlarged_redrawn_and_deleted(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.fill("Prompt", "a red house")
    visitor.fill("Seed", 41)
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    tools = visitor.page.get_by_role("toolbar")
    tools.get_by_role("button", name="Vary").click()
    visitor.finished(2)
    assert visitor.newest()["request"]["seed"] == 42
    tools.get_by_role("button", name="Enlarge").click()
    visitor.finished(3)
    assert (visitor.newest()["task"], visitor.shown_size()) == ("superres", [256, 256])
    tools.get_by_role("button", name="Redraw").click()
    expect(visitor.page.get_by_alt_text("The image to begin with")).to_be_visible()
    visitor.fill("How far from the image", 0.5)
    visitor.send()
    visitor.finished(4)
    assert visitor.newest()["request"]["strength"] == 0.5
    visitor.page.get_by_label("How much of the image before").fill("50")
    expect(visitor.page.locator(".cut")).to_be_visible()
    deleted = visitor.newest()["id"]
    visitor.button("Delete from the server").click()
    expect(visitor.page.locator(".card")).to_have_count(3)
    assert all_tasks.job(deleted)["images"] == []


def test_a_mask_is_painted_and_what_is_outside_stays(all_tasks: Served, visit: Visit, tmp_path: Path) -> None:
    visitor = visit(all_tasks)
    visitor.task("Inpaint")
    visitor.fill("Prompt", "a boat")
    visitor.send()
    expect(visitor.page.locator(".drop .field-error")).to_have_text("Choose an image first, or drop one on the page.")
    (tmp_path / "photo.png").write_bytes(picture(64, 64))
    visitor.page.get_by_label("An image file").set_input_files(tmp_path / "photo.png")
    visitor.send()
    expect(visitor.page.locator(".tools .field-error")).to_contain_text("Nothing is marked yet")
    visitor.drag((0.6, 0.5), (0.9, 0.5), (1.2, 0.6), (0.9, 0.8))
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    drawn = np.asarray(Image.open(io.BytesIO(all_tasks.image(visitor.newest()["id"]))), int)
    before = np.asarray(Image.open(tmp_path / "photo.png"), int)
    change = np.abs(drawn - before).max(axis=2)
    assert change[:, :20].max() == 0
    assert change[32, 45] > 0


def test_a_mask_needs_no_pointer(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.task("Inpaint")
    visitor.button("Take the example").click()
    canvas = visitor.page.locator(".sheet canvas")
    visitor.button("Mark everything").click()
    assert canvas.evaluate(FILLED) == 1
    visitor.button("Invert").click()
    assert canvas.evaluate(FILLED) == 0
    visitor.page.get_by_text("Rectangle by numbers").click()
    visitor.button("Fill this rectangle").click()
    assert canvas.evaluate(FILLED) == pytest.approx(0.25, abs=0.02)
    visitor.button("Clear").click()
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "Space"):
        visitor.page.keyboard.press(key)
    assert 0 < canvas.evaluate(FILLED) < 0.1


def test_a_map_is_painted_with_labels(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.task("Map")
    visitor.page.get_by_label("Paint with").select_option("17")
    visitor.button("Fill all").click()
    visitor.page.get_by_label("Paint with").select_option("3")
    visitor.drag((0.2, 0.5), (0.8, 0.5))
    expect(visitor.button("label 17")).to_be_visible()
    visitor.send()
    visitor.finished()
    assert (visitor.newest()["task"], visitor.newest()["warnings"]) == ("semantic2img", [])


def test_boxes_are_drawn_and_named(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.task("Layout")
    visitor.send()
    expect(visitor.page.locator(".tools .field-error")).to_have_text("Draw at least one box.")
    visitor.page.get_by_label("Next box is").select_option("70")
    visitor.drag((0.1, 0.1), (0.6, 0.5))
    visitor.button("Add a box").click()
    visitor.page.get_by_label("Box 2: label").select_option("3")
    visitor.page.get_by_label("left, %").nth(1).fill("50")
    visitor.page.get_by_label("left, %").nth(1).press("Tab")
    visitor.send()
    visitor.finished()
    first, second = visitor.newest()["request"]["objects"]
    assert (first["label"], first["box"]) == (70, pytest.approx([0.1, 0.1, 0.6, 0.5], abs=0.01))
    assert (second["label"], second["box"]) == (3, [0.5, 0.25, 0.75, 0.75])


def test_a_class_and_a_surprise(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.task("Class")
    visitor.fill("Class, 0 to 999", 207)
    visitor.send()
    visitor.finished()
    assert visitor.newest()["request"]["class_id"] == 207
    visitor.task("Surprise")
    visitor.send()
    visitor.finished(2)
    assert visitor.newest()["task"] == "unconditional"


def test_tabs_show_what_is_served_alone(keyed: Served, visit: Visit) -> None:
    visitor = visit(keyed, refusals=True)
    visitor.sign_in(KEY)
    tabs = visitor.page.get_by_role("tab")
    expect(tabs).to_have_text(["Text", "Redraw", "Inpaint", "Enlarge"])
    tabs.first.focus()
    for _ in range(3):
        visitor.page.keyboard.press("ArrowRight")
    expect(tabs.last).to_have_attribute("aria-selected", "true")
    expect(tabs.last).to_be_focused()
