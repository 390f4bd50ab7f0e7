"""A real browser without a window, driven through its own protocol over two pipes: nothing to install but chromium."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe"),
)


def find_browser() -> str | None:
    """The first browser on this machine that speaks the protocol."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of a fresh profile, with no network; with ``loopback`` it reaches servers on 127.0.0.1.

    ``requests`` holds every address that it asked for, ``problems`` every exception and every console error.
    """

    def __init__(self, profile: Path, *, patience: float = 60.0, loopback: bool = False) -> None:
        path = find_browser()
        assert path is not None, "no browser"
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._patience, self._number, self._buffer, self._loaded = patience, 0, b"", False
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # the browser reads from descriptor 3 and writes to 4
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
                "-",
                path,
                *FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        if not loopback:
            offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
            self.call("Network.emulateNetworkConditions", **offline)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.write(self._out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, page: Path | str) -> None:
        """Load a file or an address and wait for it."""
        self._loaded = False
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        until = time.monotonic() + self._patience
        while not self._loaded:
            self._note(self._read(until))

    def run(self, script: str) -> Any:
        """The value of an expression on the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Size of the window, and whether the reader's system is dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")

    def picture(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol; events that come before its answer are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self._patience
        while True:
            answer = self._read(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                found: dict[str, Any] = answer["result"]
                return found
            self._note(answer)

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(values["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.problems.append(str(values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(values["entry"]["text"])


needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no chromium on this machine: apt-get install chromium; .ci/run does"
)


@contextmanager
def opened(page: Path, profile: Path) -> Iterator[Browser]:
    """A page in a wide window; everything that the tests did leaves no problem behind."""
    with Browser(profile) as browser:
        browser.look(1400, 1000)
        browser.open(page)
        yield browser
        assert browser.problems == []


def press(browser: Browser, name: str, words: str) -> None:
    """Click the choice that shows the words."""
    pressed = browser.run(
        f"[...document.querySelectorAll('input[name={name}]')].filter(i => i.nextElementSibling.textContent === "
        f"{words!r}).map(i => i.click()).length"
    )
    assert pressed == 1


def check_drawn_offline(browser: Browser, page: Path, plots: list[str], title: str) -> None:
    """The page drew its plots without any other address and without a word on the console."""
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.problems == []
    drawn = browser.run(
        "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('svg .trace, svg .points')).map(p => p.id)"
    )
    assert drawn == plots
    assert browser.run("document.querySelector('h1').textContent") == title


def check_fits(browser: Browser, plot: str, *, dark: bool, width: int) -> None:
    """No figure leaves the window or collapses, and the axes of a plot are readable on the reader's ground."""
    browser.look(width, 1000, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    boxes = "[...document.querySelectorAll('.plots > figure')].map(f => f.getBoundingClientRect().height)"
    assert min(browser.run(boxes)) > 200  # a plot keeps its place when the window changes
    ink = browser.run(f"document.querySelector('#{plot} .xtick text').style.fill")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 380) == dark
    assert browser.picture().startswith(b"\x89PNG")
