"""The OpenAPI page in a real browser that reaches nothing but the server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from browser import Browser, find_browser
from served import Served


@pytest.mark.skipif(find_browser() is None, reason="no chromium to open the page in")
def test_the_page_shows_every_route_without_any_other_address(shared: Served, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{shared.port}"
    with Browser(tmp_path, loopback=True) as browser:
        browser.open(f"{address}/docs")
        until, shown = time.monotonic() + 30, ""
        while "/v1/rank" not in shown and time.monotonic() < until:
            shown = browser.run("document.body.innerText")
            time.sleep(0.2)
        for route in ("/v1/rank", "/v2/models", "/admin/reload", "/health/ready", "/metrics"):
            assert route in shown
        assert browser.problems == []
        elsewhere = [url for url in browser.requests if not url.startswith((address, "data:"))]
        assert elsewhere == []
        assert len(browser.requests) > 3  # page, script, style, description
