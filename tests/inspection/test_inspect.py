"""An inspection of finished runs: rows, start, matrices, history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.inspection import inspect_run
from unimixer.inspection.effective_rank import effective_rank
from unimixer.inspection.matrices import learned_mixings
from unimixer.inspection.start import starting_model
from unimixer.training.loop import Trainer
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train


def trained(dataset: Path, folder: Path, *overrides: str, **more: Any) -> RunFolder:
    return train(tiny_recipe(dataset, "training.max_steps=3", *overrides), folder=folder, quiet=True, **more)


def test_the_start_is_the_model_that_the_trainer_began_with(toy_run: RunFolder, toy_dataset: Dataset) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model, note = starting_model(toy_run)
    assert torch.equal(torch.get_rng_state(), before)
    assert note == "the start is drawn again with seed 0"
    assert model is not None
    expected = Trainer(toy_run, toy_dataset, quiet=True).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_ranks_are_those_of_the_tokens_of_the_rows(toy_run: RunFolder, toy_dataset: Dataset) -> None:
    found = inspect_run(toy_run.folder, rows=100)
    model = load_ranker(toy_run)
    batch = next(iter(Loader(toy_dataset, "validation", batch_size=100, shuffle=True).batches()))
    with torch.no_grad():
        tokens = model.tokenizer(model.embedding(batch))
        out = model.backbone(tokens)
    assert (found.ranks[0].place, found.ranks[-1].place) == ("tokens in", "tokens out")
    assert [rank.rows for rank in found.ranks] == [100] * len(found.ranks)
    assert found.ranks[0].mean == pytest.approx(effective_rank(tokens).mean().item(), rel=1e-6)
    assert found.ranks[-1].mean == pytest.approx(effective_rank(out).mean().item(), rel=1e-6)


def test_rows_do_not_depend_on_the_batches_and_end_with_the_split(
    toy_run: RunFolder, toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inspect_run(toy_run.folder, rows=150)
    monkeypatch.setattr("unimixer.inspection.inspect.BATCH_ROWS", 37)
    pieces = inspect_run(toy_run.folder, rows=150)
    assert (whole.rows, pieces.rows) == (150, 150)
    for a, b in zip(whole.ranks, pieces.ranks, strict=True):
        assert (a.place, a.rows) == (b.place, b.rows)
        assert a.mean == pytest.approx(b.mean, rel=1e-5)
    total = toy_dataset.summary("test").rows
    everything = inspect_run(toy_run.folder, rows=10**6, split="test")
    assert everything.rows == total
    assert f"the test part has {total:,} rows, fewer than the 1,000,000 asked for" in everything.notes


def test_matrices_at_the_trained_temperature_are_those_of_the_model(toy_run: RunFolder) -> None:
    (mixing,) = inspect_run(toy_run.folder, rows=10, temperatures=[1.0, 0.1, 0.01]).mixings
    assert [at.temperature for at in mixing.at] == [1.0, 0.1, 0.01]
    assert [at.trained for at in mixing.at] == [False, True, False]
    (layer,) = learned_mixings(load_ranker(toy_run).backbone)
    torch.testing.assert_close(mixing.trained.global_matrix, layer.between(), atol=1e-5, rtol=1e-4)
    sharp = [at.between.row_maximum for at in mixing.at]
    assert sharp == sorted(sharp)
    assert all(at.between.row_error < 1e-4 for at in mixing.at)
    assert mixing.raw_change is not None
    assert mixing.raw_change > 0


def test_a_run_at_another_temperature_gets_it_as_one_more_row(toy_folder: Path, tmp_path: Path) -> None:
    run = trained(toy_folder, tmp_path / "run", "temperature.end=0.2")
    found = inspect_run(run.folder, rows=10, temperatures=[1.0, 0.1])
    assert [at.words for at in found.mixings[0].at] == ["temperature 1", "temperature 0.2 (trained)", "temperature 0.1"]
    assert found.temperatures == [(1, 0.2), (2, 0.2), (3, 0.2)]


def test_an_untrained_matrix_has_not_changed(toy_folder: Path, tmp_path: Path) -> None:
    run = trained(toy_folder, tmp_path / "run", "optimizer.dense_lr=1e-30")
    (mixing,) = inspect_run(run.folder, rows=10).mixings
    assert (mixing.change, mixing.raw_change, mixing.local_change) == (0, 0, 0)


def test_a_two_stage_run_starts_from_its_first_stage(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("temperature.schedule=two-stage", "temperature.start=0.9", "training.log_every=2")
    run = trained(toy_folder, tmp_path / "run", *overrides)
    found = inspect_run(run.folder, rows=10)
    assert found.temperatures == [(-1, 0.9), (0, 0.9), (2, 0.1), (3, 0.1)]
    assert found.notes == [f"the start is the best weights of {run.folder / 'warm-up'}"]
    start, _ = starting_model(run)
    assert start is not None
    weights = load_ranker(RunFolder(run.folder / "warm-up")).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in start.state_dict().items())


def test_a_start_that_is_gone_is_said(toy_folder: Path, tmp_path: Path) -> None:
    first = trained(toy_folder, tmp_path / "first")
    second = trained(toy_folder, tmp_path / "second", start_from=first.folder)
    first.folder.rename(tmp_path / "away")
    found = inspect_run(second.folder, rows=10)
    assert found.notes[0].startswith("the start is unknown because its weights cannot be read: ")
    assert (found.mixings[0].change, found.mixings[0].raw_change) == (None, None)


def test_another_version_of_torch_is_said(toy_folder: Path, tmp_path: Path) -> None:
    run = trained(toy_folder, tmp_path / "run")
    environment = run.environment
    environment["versions"]["torch"] = "1.0"
    (run.folder / "environment.json").write_text(json.dumps(environment))
    assert "; the run was trained with torch 1.0 and this is " in starting_model(run)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows=0 must be greater than 0"),
        ({"temperatures": [0.0]}, "temperature=0.0 must be greater than 0"),
        ({"split": "valid"}, "unknown split 'valid'"),
        (
            {"dataset": Path("/nowhere")},
            r"and /nowhere holds no dataset \(no manifest.json\); if it moved, give its folder with --data",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str, toy_run: RunFolder) -> None:
    with pytest.raises(UnimixerError, match=message):
        inspect_run(toy_run.folder, **arguments)
