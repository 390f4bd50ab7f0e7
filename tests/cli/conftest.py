"""The command line inside the test's process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tiny import tiny_values
from toy import SCHEMA, toy_frames

from unimixer.cli import main


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of the output."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def error(self) -> str:
        """The one sentence of a refused command."""
        assert len(self.err.splitlines()) == 1, self
        return self.last_error

    @property
    def last_error(self) -> str:
        """The same for a command that said more before it was refused."""
        assert self.code == 2, self
        line = self.err.splitlines()[-1]
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNIMIXER_RUNS", raising=False)
    monkeypatch.delenv("UNIMIXER_STORES", raising=False)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def recipe(toy_folder: Path, tmp_path: Path) -> Path:
    """A recipe file that trains one step."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_values(toy_folder, "training.max_steps=1"), sort_keys=False))
    return path


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world as a user would have it: a schema and three files."""
    folder = tmp_path_factory.mktemp("raw")
    for name, frame in zip(("impressions", "users", "items"), toy_frames(), strict=True):
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    return folder
