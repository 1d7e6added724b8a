"""What is typed is what is sent, what is refused comes into view, and a reload keeps what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.test_trouble import long_job
from tests.browser.visitor import Visitor
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow
Visit = Callable[..., Visitor]
PHONE = {"viewport": {"width": 360, "height": 780}, "has_touch": True}


def type_slowly(field: Locator, text: str) -> None:
    field.click(click_count=3)
    field.press_sequentially(text, delay=300)


def test_what_is_typed_while_a_job_runs_is_kept_and_sent(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    long_job(visitor)
    expect(visitor.page.locator(".preview")).to_be_visible()
    typed = {"Steps": "21", "Images": "2", "Width": "128", "Seed": "77"}
    for label, text in typed.items():
        field = visitor.page.get_by_label(label, exact=True)
        type_slowly(field, text)
        expect(field).to_have_value(text)
    expect(visitor.button("Cancel")).to_be_visible()  # it ran all the while
    visitor.page.keyboard.press("Enter")  # the field is not left
    expect(visitor.page.locator(".card")).to_have_count(2)
    request = visitor.newest()["request"]
    assert [request[name] for name in ("steps", "n", "width", "seed")] == [21, 2, 128, 77]
    for card in range(2):
        visitor.page.locator(".card-face").nth(card).click()
        visitor.button("Cancel").click()
        expect(visitor.button("Cancel")).to_have_count(0)


def test_an_empty_number_is_the_default(all_tasks: Served, visit: Visit) -> None:
    steps = visit(all_tasks).page.get_by_label("Steps", exact=True)
    default = steps.input_value()
    steps.fill("7")
    steps.fill("")
    expect(steps).to_have_value("")
    steps.press("Tab")
    expect(steps).to_have_value(default)


def test_numbers_show_their_limits(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    (model,) = [each for each in all_tasks.http.get("/v1/models").json()["data"] if "txt2img" in each["default_for"]]
    width, steps = (visitor.page.get_by_label(label, exact=True) for label in ("Width", "Steps"))
    multiple = model["size_multiple"]
    most = model["max_side"] or int(model["max_pixels"] ** 0.5) // multiple * multiple
    assert [width.get_attribute(name) for name in ("min", "max", "step")] == [str(multiple), str(most), str(multiple)]
    assert steps.get_attribute("max") == str(model["max_steps"])
    expect(width).to_have_accessible_description(f"{multiple}–{most}, in steps of {multiple}")


def test_a_phone_shows_what_was_refused(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks, refusals=True, **PHONE)
    visitor.fill("Prompt", "a house")
    visitor.fill("Width", 1000)
    visitor.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    visitor.send()
    expect(visitor.page.get_by_label("Width", exact=True)).to_be_focused()
    expect(visitor.page.locator("#e-width")).to_be_in_viewport(ratio=1)


def test_a_phone_shows_where_an_image_goes(all_tasks: Served, visit: Visit, tmp_path: Path) -> None:
    visitor = visit(all_tasks, **PHONE)
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", 2)
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    visitor.task("Inpaint")
    expect(visitor.button("Choose a file")).to_be_in_viewport(ratio=1)
    (tmp_path / "notes.txt").write_text("no image")
    visitor.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    visitor.page.get_by_label("An image file").set_input_files(tmp_path / "notes.txt")
    error = visitor.page.locator(".drop .field-error")
    expect(error).to_contain_text("“notes.txt” is no image that can be read")
    expect(error).to_be_in_viewport(ratio=1)
    expect(visitor.page.locator("#task .note")).to_have_count(0)


def test_a_key_is_asked_for_in_so_many_words(keyed: Served, visit: Visit) -> None:
    visitor = visit(keyed, refusals=True)
    field = visitor.page.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    field.press_sequentially("ldm_", delay=50)
    visitor.page.evaluate("dispatchEvent(new Event('hashchange'))")  # draws the page again
    visitor.page.wait_for_timeout(200)
    expect(field).to_have_value("ldm_")
    visitor.page.keyboard.press("Escape")
    expect(visitor.page.get_by_role("heading", name="This server asks for a key")).to_be_visible()
    expect(visitor.page.get_by_text("No model is served yet")).to_have_count(0)
    visitor.button("Enter the key").click()
    expect(field).to_be_focused()


def test_a_reload_keeps_what_was_written(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.task("Redraw")
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", 33)
    visitor.page.reload()
    expect(visitor.page.get_by_role("tab", selected=True)).to_have_text("Redraw")
    expect(visitor.page.get_by_label("Prompt", exact=True)).to_have_value("a house")
    expect(visitor.page.get_by_label("Steps", exact=True)).to_have_value("33")


def test_generate_stays_in_view_while_the_server_is_away(serve: Callable[..., Served], visit: Visit) -> None:
    service = serve()
    visitor = visit(service, refusals=True)
    expect(visitor.page.get_by_role("tab").first).to_be_visible()
    service.stop()
    visitor.fill("Prompt", "a house")
    visitor.send()
    expect(visitor.page.locator(".banner")).to_be_visible()
    expect(visitor.page.locator(".send button")).to_be_in_viewport(ratio=1)
