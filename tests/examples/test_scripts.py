"""Every example runs as it stands, on little data."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.torch import load_file

from unimixer.backbones import BACKBONES
from unimixer.training.run import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run an example as a program of its own would run, and return what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.syspath_prepend(str(EXAMPLES))  # where Python looks first for a script
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_a_ranker_trained_in_a_bare_loop_is_saved_and_loaded(example: Any, toy_folder: Path, tmp_path: Path) -> None:
    printed = example("own_loop.py", "--dataset", toy_folder, "--out", tmp_path, "--epochs", 1)
    assert "is_click: AUC 0." in printed
    assert "the loaded ranker measures the same: True" in printed
    assert load_file(tmp_path / "ranker.safetensors").keys() >= {"embedding.tables.packed.8.weight"}


def test_a_backbone_of_ones_own_is_trained_by_its_name(
    example: Any, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "gated-mixer", None)  # the example sets it for this test alone
    printed = example("new_backbone.py", "--dataset", toy_folder, "--out", tmp_path, "--max-steps", 2)
    assert "is_click: AUC 0." in printed
    run = RunFolder(tmp_path / "run")
    assert run.recipe.model.backbone == "gated-mixer"
    assert abs((run.result or {})["dense_parameters"] / 60_000 - 1) <= 0.02


def test_a_log_becomes_scores(example: Any, tmp_path: Path) -> None:
    printed = example("own_log.py", "--out", tmp_path, "--rows", 1_500, "--max-steps", 2)
    assert "click: AUC 0." in printed
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores.height == 100
    assert scores["click_score"].is_between(0, 1).all()


def test_a_small_ranker_learns_from_a_large_one(example: Any, tmp_path: Path) -> None:
    sizes = ("--large", "30K", "--small", "10K", "--rows", 1_500, "--max-steps", 2)
    printed = example("distill.py", "--out", tmp_path, *sizes)
    assert printed.startswith("AUC of click: large 0.")
    scored = pl.read_parquet(tmp_path / "scored.parquet")
    assert scored["teacher"].is_between(0, 1).all()
    assert RunFolder(tmp_path / "taught").recipe.soft_labels["click"].weight == 0.5
    assert RunFolder(tmp_path / "alone").recipe.soft_labels == {}


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_draws_the_mixing_of_a_run(toy_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("RUN", str(toy_run.folder))
    notebook = nbformat.read(EXAMPLES / "inspect_mixing.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "of a row moved" in printed
    assert "effective rank" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
