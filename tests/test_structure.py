"""The house: imports point one way without circles, files stay small, and the page of the structure is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unimixer"
PAGE = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")


def test_imports_point_one_way_and_in_no_circle(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_a_file_has_one_subject() -> None:
    lines = {str(p.relative_to(SOURCE)): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCE.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > 320} == {}


def test_the_page_names_files_that_exist() -> None:
    named = set(re.findall(r"`((?:src|benchmarks|tests)/[\w/.]+)`", PAGE))
    assert len(named) >= 10
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_the_page_draws_every_room_in_the_order_of_the_layers() -> None:
    drawn = re.findall(r"^  ([a-z_]+)(?:/|\.py) ", PAGE, flags=re.MULTILINE)
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(drawn) == rooms - {"__init__", "__main__"}
    layers = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert layers is not None
    order = [name for name in reversed(re.findall(r"\b[a-z_]+\b", layers[1])) if name in rooms]
    assert sorted(drawn, key=order.index) == drawn
