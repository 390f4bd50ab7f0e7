"""The suite's command line inside the test's process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_runner import Done, runner

from benchmarks.suite import timing
from benchmarks.suite.__main__ import main


@pytest.fixture(autouse=True)
def no_collection_before_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of thousands of tests each takes a second."""
    others = {name: getattr(gc, name) for name in ("isenabled", "enable", "disable")}
    monkeypatch.setattr(timing, "gc", SimpleNamespace(collect=lambda: 0, **others))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return runner(main, capsys)
