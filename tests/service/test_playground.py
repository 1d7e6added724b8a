"""The page at `/`: served whole, by this server alone, under a strict policy, and not where it is turned off."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from service.routes.playground import ASSETS, FOLDER
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem

LINK = re.compile(r"(?:src|href)=\"([^\"]+)\"")
IMPORT = re.compile(r"(?:from|import\() ?\"(\./[^\"]+)\"")
MOST_LINES, MOST_LINES_OF_A_FILE, MOST_BYTES = 2000, 300, 200_000


def written_here() -> list[Path]:
    return [
        path for path in FOLDER.rglob("*") if path.suffix in {".html", ".css", ".js"} and "vendor" not in path.parts
    ]


@pytest.mark.parametrize("root", ["", "/ldm"])
async def test_the_page_and_all_that_it_names_come_from_here(gateway: Gateway, root: str) -> None:
    http = await gateway(root_path=root)
    for path in {f"{root}/", root or "/"}:
        page = await http.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        links = [link for link in LINK.findall(page.text) if not link.endswith("/docs")]
        assert len(links) == 6 and all(link.startswith(f"{root}/playground/") for link in links)
        assert [(await http.get(link)).status_code for link in links] == [200] * 6


async def test_the_policy_allows_this_server_alone(http: httpx.AsyncClient) -> None:
    policy = (await http.get("/")).headers["content-security-policy"]
    assert "default-src 'self';" in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"unsafe|http|\*", policy)


async def test_a_browser_that_has_a_file_gets_no_second_one(http: httpx.AsyncClient) -> None:
    for path in ("/", "/playground/app.js", "/playground/vendor/inter.woff2"):
        first = await http.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = await http.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2fapp.py", "%2e%2e/routes/docs.py", "vendor"])
async def test_nothing_else_is_an_asset(http: httpx.AsyncClient, name: str) -> None:
    assert_problem(await http.get(f"/playground/{name}"), 404)


@pytest.mark.parametrize("path", ["/", "/playground/app.js"])
async def test_it_can_be_turned_off(gateway: Gateway, path: str) -> None:
    http = await gateway(playground=False)
    assert_problem(await http.get(path), 404)
    assert (await http.get("/v1/models")).status_code == 200


def test_every_module_imports_what_is_there() -> None:
    missing = {
        (path.name, name)
        for path in written_here()
        for name in IMPORT.findall(path.read_text())
        if name[2:] not in ASSETS
    }
    assert not missing


def test_it_stays_small_enough_to_read_and_to_load() -> None:
    lines = {path.name: path.read_text().count("\n") for path in written_here()}
    assert max(lines.values()) <= MOST_LINES_OF_A_FILE
    assert sum(lines.values()) <= MOST_LINES
    assert sum(len(asset.data) for name, asset in ASSETS.items() if not name.endswith(".txt")) <= MOST_BYTES
