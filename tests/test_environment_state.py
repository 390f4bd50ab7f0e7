"""A call of the library leaves the process of its caller as it was."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import caller_states, tiny_recipe, tiny_values
from toy import toy_frames

from unimixer import Predictor, UnimixerError, prepare, train
from unimixer.api import evaluate
from unimixer.bundles import ExportOptions, export_run
from unimixer.data.dataset import Dataset
from unimixer.environment import states_kept
from unimixer.evaluation import evaluate_hardened
from unimixer.inspection import inspect_run
from unimixer.training.convert import conversion_change, converted_recipe
from unimixer.training.run import RunFolder
from unimixer.training.train import resume

LOG = toy_frames()[0].tail(50)


def going_on(folder: Path, run: Path, _dataset: Path) -> None:
    shutil.copytree(run, folder / "again")
    (folder / "again" / "result.json").unlink()
    resume(folder / "again", quiet=True)


def failing(folder: Path, _run: Path, dataset: Path) -> None:
    with pytest.raises(UnimixerError):
        train(
            tiny_values(dataset, "optimizer.dense_lr=1e30", "optimizer.embedding_lr=1e30"),
            folder=folder / "r",
            quiet=True,
        )


def scoring(folder: Path, run: Path, _dataset: Path) -> None:
    Predictor(run).predict(LOG)
    LOG.write_parquet(folder / "rows.parquet")
    evaluate(run, rows=folder / "rows.parquet")


def changing(_folder: Path, run: Path, dataset: Path) -> None:
    source = RunFolder(run)
    conversion_change(source, converted_recipe(source, "unimixer"), Dataset(dataset))


CALLS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "train": lambda folder, run, dataset: train(
        tiny_values(dataset, "training.threads=2"), folder=folder / "r", quiet=True
    ),
    "warm start": lambda folder, run, dataset: train(
        tiny_values(dataset, "training.max_steps=1"), folder=folder / "r", warm_start=run, quiet=True
    ),
    "train that raises": failing,
    "resume": going_on,
    "predict": scoring,
    "evaluate": lambda folder, run, dataset: evaluate(run, "test"),
    "harden": lambda folder, run, dataset: evaluate_hardened(run, "permutation", "test"),
    "export": lambda folder, run, dataset: export_run(run, folder / "bundle", ExportOptions(auc_rows=100, largest=16)),
    "inspect": lambda folder, run, dataset: inspect_run(run, rows=50),
    "convert": changing,
    "prepare": lambda folder, run, dataset: prepare("synthetic", folder / "s", rows=2_000, users=50, items=50),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_random_states_threads_and_filters_alone(
    name: str, toy_run: RunFolder, toy_folder: Path, tmp_path: Path
) -> None:
    for draw in (random.random, np.random.rand, lambda: torch.rand(1)):
        draw()
    before = caller_states()
    CALLS[name](tmp_path, toy_run.folder, toy_folder)
    after = caller_states()
    assert [what for what in before if before[what] != after[what]] == []


def test_draws_between_runs_of_one_seed_differ_and_the_runs_do_not(toy_folder: Path, tmp_path: Path) -> None:
    random.seed(3)
    drawn, results = [], []
    for trial in range(2):
        drawn.append(random.random())
        recipe = tiny_recipe(toy_folder, "training.max_steps=2")
        results.append((train(recipe, folder=tmp_path / str(trial), quiet=True).result or {})["test"])
    random.seed(3)
    assert drawn == [random.random(), random.random()]
    assert results[0] == results[1]


def test_states_are_given_back_when_a_call_fails() -> None:
    @states_kept()
    def fails() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_num_threads(torch.get_num_threads() + 1)
        warnings.simplefilter("ignore")
        raise ZeroDivisionError

    before = caller_states()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert caller_states() == before
