"""``unimixer demo``: its outputs, its sizes, and what it never replaces."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import toy_frames

from unimixer.cli import demo
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


@pytest.mark.slow
def test_the_demo_leaves_runs_a_table_and_a_picture(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("demo", "--rows", "2000", "--params", "100K")
    first = cli(*arguments, "--json").json
    assert set(first["models"]) == {"unimixer-lite", "rankmixer", "mlp"}
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "demo" / "demo.md").read_text().splitlines()) == 5
    assert "demo exists; choose another --out, or pass --overwrite" in cli(*arguments).error
    # without the report extra, on the same runs, there is no picture and nothing else is missing
    kept = (tmp_path / "demo").rename(tmp_path / "kept")
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr("unimixer.cli.demo.prepare", lambda *_, **__: Dataset(kept / "dataset"))
    monkeypatch.setattr("unimixer.cli.demo.train", lambda *_, folder, **__: RunFolder(kept / "runs" / folder.name))
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    again = cli(*arguments, "--overwrite")
    assert "no picture: drawing needs optional packages: pip install 'unimixer[report]'" in again.err
    assert "picture: none" in again.out
    assert (tmp_path / "demo" / "demo.md").read_text() == (kept / "demo.md").read_text()


def test_a_small_demo_takes_fewer_tokens_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = prepare(open_raw("synthetic", None, rows=2_000), tmp_path / "store")
    shape = demo._shape(dataset, 20_000)
    assert shape == {"num_tokens": 4, "embedding_dim": 16}
    assert (
        capsys.readouterr().err
        == "     num_tokens=4, embedding_dim=16, with which every model meets 20,000 parameters\n"
    )
    assert demo._shape(dataset, 300_000) == {"num_tokens": 16, "embedding_dim": 16}
    assert capsys.readouterr().err == ""


def test_a_demo_that_no_shape_fits_names_the_next_budget_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    error = "--params 100: the models of the demo cannot all meet it within 2%; the next round budget that they do is"
    done = cli("demo", "--out", "demo", "--rows", "2000", "--params", "100")
    assert done.err.splitlines()[-1] == f"error: {error} --params 5000"
    assert not (tmp_path / "demo").exists()
    assert "dense_params='few'" in cli("demo", "--params", "few").error


def test_the_demo_never_replaces_what_it_did_not_make(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    error = cli("demo", "--out", "home", "--overwrite").error
    assert error == "home holds 'thesis.tex', which no demo made; choose another --out"
    assert (tmp_path / "home" / "thesis.tex").exists()
