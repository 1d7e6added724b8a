"""Who looks at the page: what they do on it, and what they would see in the browser's console."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from tests.end_to_end.serving import Served

expect.set_options(timeout=10_000)
PATIENCE_MS = 30_000
KEY = "ldm_alice-0123456789"
REFUSED = "Failed to load resource"  # what the browser itself writes of an answer that is an error


class Visitor:
    """One tab. `refusals`: the test provokes answers that are errors, which the browser writes into the console."""

    def __init__(
        self, browser: Browser, service: Served, path: str = "/", *, refusals: bool = False, **given: Any
    ) -> None:
        self._refusals, self._service = refusals, service
        self._context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | given))
        self._context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", self._written)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(service.url + path)

    def _written(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not (self._refusals and message.text.startswith(REFUSED)):
            self.errors.append(f"{message.text} {message.location}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._service.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def leave(self) -> None:
        self._context.close()
        assert (self.errors, self.foreign) == ([], [])

    def task(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def sign_in(self, key: str) -> None:
        self.page.get_by_label("Key", exact=True).fill(key)
        self.button("Use this key").click()

    def fill(self, label: str, value: object) -> None:
        field = self.page.get_by_label(label, exact=True)
        field.fill(str(value))
        field.press("Tab")

    def without_enlarging(self) -> None:
        self.page.get_by_role("switch", name=re.compile("^Enlarge")).uncheck(force=True)

    def send(self) -> None:
        self.page.locator(".send button").click()

    def finished(self, jobs: int = 1) -> None:
        """Waits until `jobs` cards are there and the one on the stage has its image, decoded."""
        expect(self.page.locator(".card")).to_have_count(jobs)
        expect(self.page.get_by_role("link", name="Download")).to_be_visible(timeout=PATIENCE_MS)
        image = self.page.locator(".stage .sheet img").first
        self.page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())

    def shown_size(self) -> list[int]:
        size: list[int] = self.page.locator(".stage .sheet img").first.evaluate(
            "i => [i.naturalWidth, i.naturalHeight]"
        )
        return size

    def drag(self, *places: tuple[float, float], within: str = ".sheet") -> None:
        """Draws a stroke through `places`, as shares of an element's width and height; it may leave it."""
        box = self.page.locator(within).first.bounding_box()
        assert box is not None
        points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in places]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=4)
        self.page.mouse.up()

    def newest(self) -> dict[str, Any]:
        """The newest job, as the server has it."""
        headers = {"Authorization": f"Bearer {key}"} if (key := self.page.evaluate("sessionStorage['ldm.key']")) else {}
        jobs = self._service.http.get("/v1/jobs?limit=1", headers=headers).raise_for_status().json()["data"]
        return dict(jobs[0])
