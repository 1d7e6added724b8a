"""What goes wrong, and how the page says it: refusals, keys, a server that goes away, too much of everything."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.visitor import KEY, Visitor
from tests.end_to_end.serving import Served, picture

pytestmark = pytest.mark.slow
Visit = Callable[..., Visitor]
DROP = """([name, type, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type }));
  const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(".stage").dispatchEvent(drop);
}"""


def long_job(visitor: Visitor, steps: int = 1000, images: int = 8) -> None:
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", steps)
    visitor.fill("Images", images)
    visitor.without_enlarging()
    visitor.send()
    expect(visitor.page.locator(".card")).to_have_count(1)


def test_a_job_is_cancelled(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    long_job(visitor)
    expect(visitor.page.locator("progress")).to_be_visible()
    visitor.button("Cancel").click()
    expect(visitor.page.locator(".sheet-hint, .sheet.cancelled")).to_have_count(2)
    assert visitor.newest()["status"] == "cancelled"


def test_a_refusal_stands_at_its_field(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks, refusals=True)
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", 1001)
    visitor.send()
    steps = visitor.page.get_by_label("Steps", exact=True)
    expect(steps).to_have_attribute("aria-invalid", "true")
    expect(visitor.page.locator("#e-steps")).to_contain_text("1000")
    expect(visitor.page.get_by_role("alert").first).to_contain_text("steps")
    visitor.fill("Steps", 4)
    expect(visitor.page.locator("#e-steps")).to_have_count(0)


def test_a_prompt_of_2000_characters_is_drawn_and_a_longer_one_refused(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks, refusals=True)
    visitor.fill("Prompt", "house " * 333 + "ab")
    expect(visitor.page.get_by_text("2000 of 2000 characters")).to_be_visible()
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    expect(visitor.page.locator(".result .note").first).to_be_visible()  # what was cut stands there
    visitor.fill("Prompt", "house " * 333 + "abc")
    visitor.send()
    expect(visitor.page.locator("#e-prompt")).to_contain_text("2000")


def test_warnings_are_shown(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.fill("Prompt", "a zeppelin")
    expect(visitor.page.get_by_text("Unknown to this model: zeppelin")).to_be_visible()
    visitor.without_enlarging()
    visitor.send()
    visitor.finished()
    expect(visitor.page.locator(".result .note")).to_contain_text(
        "zeppelin. The words it knows are listed under the prompt."
    )


def test_what_is_no_image_is_named_and_what_is_one_is_taken(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    expect(visitor.page.get_by_role("tab").first).to_be_visible()
    visitor.page.evaluate(DROP, ["notes.txt", "text/plain", base64.b64encode(b"no image").decode()])
    expect(visitor.page.get_by_role("alert")).to_contain_text("“notes.txt” is no image that can be read")
    visitor.page.evaluate(DROP, ["wide.png", "image/png", base64.b64encode(picture(1000, 400)).decode()])
    expect(
        visitor.page.get_by_text("Sent as 101 × 40: 1000 × 400 is more than this model was trained for.")
    ).to_be_visible()
    expect(visitor.page.get_by_role("tab", selected=True)).to_have_text("Redraw")


def test_a_key_is_asked_for_and_a_wrong_one_is_named(keyed: Served, visit: Visit) -> None:
    visitor = visit(keyed, refusals=True)
    expect(visitor.page.get_by_role("dialog")).to_contain_text("This server asks for an API key.")
    visitor.sign_in("ldm_wrong")
    expect(visitor.page.get_by_role("dialog")).to_contain_text("The server does not know this key.")
    visitor.sign_in(KEY)
    expect(visitor.page.get_by_role("dialog")).to_have_count(0)
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", 400)
    visitor.without_enlarging()
    visitor.send()
    expect(visitor.page.locator(".preview")).to_be_visible()
    visitor.finished()
    visitor.page.reload()
    visitor.finished()


def test_the_page_goes_on_after_the_server_was_away(serve: Callable[..., Served], visit: Visit) -> None:
    first = serve(drain_s=0.2)
    visitor = visit(first, refusals=True)
    long_job(visitor, steps=600, images=1)
    expect(visitor.page.locator(".preview")).to_be_visible()
    assert first.stop() == 0
    expect(visitor.page.get_by_text("The server does not answer.").first).to_be_visible()
    expect(visitor.page.locator(".send button")).to_be_disabled()
    serve(port=first.port)
    expect(visitor.page.get_by_text("The server does not answer.").first).to_be_hidden()
    expect(visitor.page.locator("progress")).to_be_visible()
    visitor.finished()


def test_fifty_jobs_and_a_reload(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks)
    visitor.fill("Prompt", "a house")
    visitor.fill("Steps", 2)
    visitor.without_enlarging()
    visitor.page.locator(".send button").evaluate("""async (button) => {
      for (let i = 1; i <= 50; i++) {
        button.click();
        while (document.querySelectorAll(".card").length < i) await new Promise(requestAnimationFrame);
      }
    }""")
    expect(visitor.page.locator(".card.succeeded")).to_have_count(50, timeout=60_000)
    frames = visitor.page.evaluate("""async () => {
      let worst = 0;
      for (const face of [...document.querySelectorAll(".card-face")].slice(0, 20)) {
        const from = performance.now();
        face.click();
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);
        worst = Math.max(worst, performance.now() - from);
      }
      return worst;
    }""")
    print(f"the slowest of 20 choices among 50 jobs was drawn after {frames:.0f} ms")
    assert frames < 1000
    visitor.page.reload()
    expect(visitor.page.locator(".card.succeeded")).to_have_count(50)


def test_operators_see_the_queue_and_the_models(all_tasks: Served, visit: Visit) -> None:
    visitor = visit(all_tasks, "/#/operators")
    expect(visitor.page.get_by_role("status").first).to_have_text("Ready")
    expect(visitor.page.get_by_role("rowheader")).to_have_count(6)
    all_tasks.submit("txt2img", prompt="a house", steps=2, guidance_scale=3)
    expect(visitor.page.get_by_role("img", name=re.compile(r"Jobs accepted a second: now 0\.[1-9]"))).to_be_visible()
    expect(visitor.page.get_by_role("img", name="Rows per step: now 2 rows")).to_be_visible()
