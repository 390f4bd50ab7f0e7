"""A caller that watches a run: its evaluations by number, the parts it is measured on, and an early end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_recipe

from unimixer.errors import UnimixerError
from unimixer.training.observer import Observer
from unimixer.training.run import RunFolder
from unimixer.training.summary import finished_runs
from unimixer.training.train import resume, train


def test_evaluations_are_heard_by_number_and_the_test_part_can_be_left_out(toy_folder: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int, float]] = []
    observer = Observer(("validation",), lambda *evaluation: heard.append(evaluation))
    recipe = tiny_recipe(toy_folder, "training.max_steps=5", "training.eval_interval=2")
    run = train(recipe, folder=tmp_path / "run", quiet=True, observer=observer)
    assert run.result is not None
    assert [(number, last) for number, last, _ in heard] == [(1, 3), (2, 3), (3, 3)]
    assert max(value for *_, value in heard) == run.result["validation"]["is_click"]["auc"]
    assert "test" not in run.result
    assert finished_runs([tmp_path]) == []  # a mean over runs needs runs that were tested


def test_an_error_of_the_observer_ends_the_run_which_can_go_on(toy_folder: Path, tmp_path: Path) -> None:
    def refuse(number: int, last: int, value: float) -> None:
        raise UnimixerError(f"enough at {number} of {last}")

    recipe = tiny_recipe(toy_folder, "training.max_steps=2", "training.eval_interval=1")
    with pytest.raises(UnimixerError, match=r"^enough at 1 of 2$"):
        train(recipe, folder=tmp_path / "run", quiet=True, observer=Observer(evaluated=refuse))
    run = RunFolder(tmp_path / "run")
    assert run.result is None
    assert resume(run.folder, quiet=True).result is not None


def test_the_first_of_two_stages_is_not_heard(toy_folder: Path, tmp_path: Path) -> None:
    heard: list[int] = []
    changes = ("temperature.schedule=two-stage", "training.max_steps=2", "training.eval_interval=1")
    observer = Observer(("validation",), lambda number, last, value: heard.append(number))
    run = train(tiny_recipe(toy_folder, *changes), folder=tmp_path / "run", quiet=True, observer=observer)
    assert heard == [1, 2]
    stage = RunFolder(run.folder / "warm-up").result
    assert stage is not None
    assert "test" not in stage
