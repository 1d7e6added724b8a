"""A page of another origin draws, follows and shows images while the service asks for keys, in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser

from tests.browser.visitor import KEY
from tests.end_to_end.serving import ROOT, Served

pytestmark = pytest.mark.slow

# Neither an <img> nor an EventSource can send a header: both use signed URLs.
PLAIN = """<!doctype html><title>waits</title><link rel="icon" href="data:,"><img>
<script type="module">
  const at = SERVER, key = KEY, sent = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const body = JSON.stringify({ prompt: "a red house by the sea", steps: 400 });
  const job = await (await fetch(`${at}/v1/txt2img`, { method: "POST", headers: sent, body })).json();
  let previews = 0;
  const source = new EventSource(at + job.urls.events_signed + "&preview=1");
  source.addEventListener("progress", ({ data }) => { if (JSON.parse(data).preview) previews += 1; });
  source.addEventListener("succeeded", ({ data }) => {
    source.close();
    const image = document.querySelector("img");
    image.onload = () => { document.title = `shows ${image.naturalWidth}, ${previews > 0 ? "previews" : "none"}`; };
    image.onerror = () => { document.title = "broken"; };
    image.src = at + JSON.parse(data).images[0].signed_url;
  });
</script>"""
WITH_THE_CLIENT = """<!doctype html><title>waits</title><link rel="icon" href="data:,"><img>
<script type="module">
  import { Client } from "/ldm-client.js";
  const client = new Client({ server: SERVER, apiKey: KEY });
  const job = await client.txt2img("a red house by the sea", { steps: 400 });
  let previews = 0;
  for await (const event of job.events({ preview: true })) if (event.data.preview) previews += 1;
  const image = document.querySelector("img");
  image.onload = () => { document.title = `shows ${image.naturalWidth}, ${previews > 0 ? "previews" : "none"}`; };
  image.src = URL.createObjectURL(await job.images[0].blob());
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Another origin, and the folder that it serves."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "ldm-client.js").write_bytes((ROOT / "clients/javascript/ldm-client.js").read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.mark.parametrize("page", [PLAIN, WITH_THE_CLIENT], ids=["plain", "client"])
def test_a_page_of_another_origin_follows_a_job_with_keys_on(
    chromium: Browser, serve: Callable[..., Served], elsewhere: tuple[str, Path], page: str
) -> None:
    origin, folder = elsewhere
    service = serve(api_keys=f"alice:{KEY}", cors_origins=origin)
    (folder / "index.html").write_text(page.replace("SERVER", f'"{service.url}"').replace("KEY", f'"{KEY}"', 1))
    tab = chromium.new_page()
    trouble: list[str] = []
    tab.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.goto(origin)
    tab.wait_for_function("document.title !== 'waits'", timeout=60_000)
    assert tab.title() == "shows 64, previews", trouble
    assert trouble == []
    tab.close()


def test_a_page_of_an_origin_that_is_not_listed_learns_nothing(
    chromium: Browser, serve: Callable[..., Served], elsewhere: tuple[str, Path]
) -> None:
    origin, folder = elsewhere
    service = serve(api_keys=f"alice:{KEY}")
    (folder / "index.html").write_text("<!doctype html>")
    tab = chromium.new_page()
    tab.goto(origin)
    asked = f"fetch('{service.url}/v1/models', {{ headers: {{ Authorization: 'Bearer {KEY}' }} }})"
    assert tab.evaluate(f"{asked}.then(() => 'answered', (error) => error.name)") == "TypeError"
    tab.close()
