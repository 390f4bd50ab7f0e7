"""How far the matrices of a run moved from its start."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_recipe

from unimixer.errors import UnimixerError
from unimixer.inspection import inspect_run, moved_share, moved_shares
from unimixer.inspection.matrices import learned_mixings
from unimixer.inspection.start import starting_model
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train


def trained(dataset: Path, folder: Path, *overrides: str) -> RunFolder:
    return train(tiny_recipe(dataset, "training.max_steps=3", *overrides), folder=folder, quiet=True)


def test_moved_shares_compare_the_start_with_the_best_weights(toy_folder: Path, tmp_path: Path) -> None:
    options = "model.options={num_blocks: 2, matrices: blocks, rank: 4, block_size: 2, init: random}"
    run = trained(toy_folder, tmp_path / "run", options, "temperature.end=0.6", "optimizer.mixing_lr=0.1")
    shares = moved_shares(run.folder)
    start, _ = starting_model(run)
    assert start is not None
    pairs = zip(learned_mixings(start.backbone), learned_mixings(load_ranker(run).backbone), strict=True)
    expected = {after.place: moved_share(before.between(0.6), after.between(0.6)) for before, after in pairs}
    assert shares == pytest.approx(expected, rel=1e-4)
    assert all(0.01 < share < 1 for share in shares.values())
    found = inspect_run(run.folder, rows=10, interaction_rows=0)
    assert [mixing.moved for mixing in found.mixings] == pytest.approx(list(shares.values()), rel=1e-4)
    assert [mixing.still for mixing in found.mixings] == [False, False]
    first, second = found.movement()
    assert first.startswith(
        f"layer 1: {next(iter(shares.values())):.0%} of the weights between blocks moved; an output"
    )
    assert second.startswith("layer 2: ")


def test_matrices_that_did_not_move_are_warned_of_in_one_sentence(toy_folder: Path, tmp_path: Path) -> None:
    options = "model.options={num_blocks: 2, matrices: blocks, rank: 4, block_size: 2}"
    run = trained(toy_folder, tmp_path / "run", options, "optimizer.dense_lr=1e-30")
    assert list(moved_shares(run.folder).values()) == [0, 0]
    *layers, warned = inspect_run(run.folder, rows=10, interaction_rows=0).movement()
    assert [layer.partition(";")[0] for layer in layers] == [
        "layer 1: 0.00% of the weights between blocks moved",
        "layer 2: 0.00% of the weights between blocks moved",
    ]
    assert warned.startswith(
        "warning: the mixing matrix of layers 1 and 2 equals its start to 0.0001, so its FLOPs buy"
    )
    assert "or use backbone rankmixer" in warned


def test_a_model_without_learned_mixing_has_no_shares(toy_folder: Path, tmp_path: Path) -> None:
    run = trained(toy_folder, tmp_path / "run", "model.backbone=mlp", "model.options={}")
    assert moved_shares(run.folder) == {}


def test_a_start_that_is_gone_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    first = trained(toy_folder, tmp_path / "first")
    second = train(
        tiny_recipe(toy_folder, "training.max_steps=3"),
        folder=tmp_path / "second",
        quiet=True,
        start_from=first.folder,
    )
    first.folder.rename(tmp_path / "away")
    with pytest.raises(UnimixerError, match=r"second: the start is unknown because its weights cannot be read"):
        moved_shares(second.folder)
