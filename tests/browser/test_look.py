"""What anybody can see and use: both themes by axe's rules, a phone's width, and how soon and how much is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.visitor import Visitor
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow
Visit = Callable[..., Visitor]
PHONE = {"width": 360, "height": 780}
MOST_BYTES = 200_000
STOPPED = "*, ::before, ::after { transition: none !important; animation: none !important }"


def findings(visitor: Visitor) -> list[str]:
    visitor.page.evaluate(
        f"const s = new CSSStyleSheet(); s.replaceSync({json.dumps(STOPPED)}); document.adoptedStyleSheets = [s]"
    )
    found = Axe().run(visitor.page).response["violations"]
    serious = [rule for rule in found if rule["impact"] in {"serious", "critical"}]
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary']}" for rule in serious for node in rule["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(all_tasks: Served, visit: Visit, theme: str) -> None:
    visitor = visit(all_tasks, color_scheme=theme, reduced_motion="reduce")
    expect(visitor.page.get_by_role("tab").first).to_be_visible()
    assert findings(visitor) == []
    for task in ("Inpaint", "Map", "Layout", "Class"):
        visitor.task(task)
        if task == "Inpaint":
            visitor.button("Take the example").click()
            visitor.send()  # refused: nothing is masked
            expect(visitor.page.get_by_role("alert").first).to_be_visible()
        if task == "Layout":
            visitor.button("Add a box").click()
        assert findings(visitor) == [], task
    visitor.task("Text")
    visitor.fill("Prompt", "a zeppelin")
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    assert findings(visitor) == []
    visitor.button("Code").click()
    assert findings(visitor) == []
    visitor.page.keyboard.press("Escape")
    visitor.button("API key").click()
    assert findings(visitor) == []
    visitor.page.keyboard.press("Escape")
    visitor.page.get_by_role("link", name="Operators").click()
    expect(visitor.page.get_by_role("rowheader").first).to_be_visible()
    assert findings(visitor) == []


def test_a_phone_scrolls_down_alone(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks, viewport=PHONE, has_touch=True)
    wide = "document.documentElement.scrollWidth - innerWidth"
    for task in visitor.page.get_by_role("tab").all():
        expect(task).to_be_visible()
    for task in ("Text", "Redraw", "Inpaint", "Map", "Layout", "Class", "Surprise"):
        visitor.task(task)
        assert visitor.page.evaluate(wide) <= 0, task
    visitor.send()
    visitor.finished()
    assert visitor.page.evaluate(wide) <= 0
    visitor.page.get_by_role("link", name="Operators").click()
    expect(visitor.page.get_by_role("rowheader").first).to_be_visible()
    assert visitor.page.evaluate(wide) <= 0


def test_nothing_sticks_out(all_tasks: Served, visit: Visit) -> None:
    right = "element => element.getBoundingClientRect().right"
    wide, phone = visit(all_tasks, viewport={"width": 1280, "height": 900}), visit(all_tasks, viewport=PHONE)
    for label in ("Steps", "Guidance"):
        wide.fill(label, 9)
    expect(wide.page.get_by_role("button", name="back to")).to_have_count(2)
    slider = wide.page.get_by_label("Guidance, slider").evaluate(right)
    assert wide.page.get_by_label("Guidance", exact=True).evaluate(right) <= slider
    phone.fill("Prompt", "a house")
    phone.fill("Steps", 300)
    phone.send()
    expect(phone.page.get_by_text(re.compile(r"^Step \d+ of 300, then \d+ to enlarge$"))).to_be_visible()
    phone.finished()
    phone.button("Code").click()
    dialog = phone.page.get_by_role("dialog")
    assert dialog.evaluate(right) - dialog.get_by_role("button", name="Close").evaluate(right) <= 24


def test_the_theme_is_chosen_and_kept(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = visitor.page.evaluate(ground)
    visitor.button("Dark theme").click()
    assert visitor.page.evaluate(ground) != before
    visitor.page.reload()
    expect(visitor.button("Light theme")).to_be_visible()


def test_it_is_loaded_soon_and_small(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    expect(visitor.page.locator(".scenes img").last).to_be_visible()
    visitor.page.wait_for_load_state("networkidle")
    size = visitor.page.evaluate("""["resource", "navigation"].flatMap((type) => performance.getEntriesByType(type))
      .filter((entry) => !entry.name.includes("/v1/")).reduce((sum, entry) => sum + entry.transferSize, 0)""")
    painted = visitor.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    print(f"the page is {size} bytes with headers; first contentful paint after {painted:.0f} ms")
    assert size <= MOST_BYTES
