"""The command line inside the test's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_runner import Done, runner
from tiny import tiny_values
from toy import SCHEMA, toy_frames

from unimixer.cli import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNIMIXER_RUNS", raising=False)
    monkeypatch.delenv("UNIMIXER_DATASETS", raising=False)
    return runner(main, capsys)


@pytest.fixture
def recipe(toy_folder: Path, tmp_path: Path) -> Path:
    """A recipe file that trains one step."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_values(toy_folder, "training.max_steps=1"), sort_keys=False))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Raw rows to score."""
    path = tmp_path / "rows.parquet"
    toy_frames()[0].tail(50).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world as a user would have it: a schema and three files."""
    folder = tmp_path_factory.mktemp("raw")
    for name, frame in zip(("impressions", "users", "items"), toy_frames(), strict=True):
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    return folder
