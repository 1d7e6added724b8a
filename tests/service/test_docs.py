"""The page of the API: everything on it comes from this server."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

import httpx
import pytest
from pydantic import SecretStr

from tests.service.conftest import Gateway
from tests.service.problems import assert_problem

LINK = re.compile(r"(?:src=|href=|url: )[\"']([^\"']+)[\"']")


@pytest.mark.parametrize("root", ["", "/ldm"])
async def test_the_page_needs_nothing_from_elsewhere(gateway: Gateway, root: str) -> None:
    http = await gateway(root_path=root, api_keys=SecretStr("alice:ldm_alice-0123456789"))
    page = await http.get(f"{root}/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    links = LINK.findall(page.text)
    assert len(links) == 4 and all(link.startswith(f"{root}/") for link in links)
    kinds = []
    for link in links:
        answer = await http.get(link)
        assert answer.status_code == 200
        kinds.append(answer.headers["content-type"].partition(";")[0])
        if "/assets/" in link:
            assert "max-age=31536000" in answer.headers["cache-control"]
    assert kinds == ["text/css", "image/png", "text/javascript", "application/json"]


async def test_its_policy_allows_its_own_scripts_alone(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", ["LICENSE", "nothing.js", "..%2f..%2fapp.py", "%2e%2e/routes/docs.py"])
async def test_nothing_else_is_an_asset(http: httpx.AsyncClient, name: str) -> None:
    assert_problem(await http.get(f"/docs/assets/{name}"), 404)
