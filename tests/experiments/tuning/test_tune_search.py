"""A search for settings: what its trials are, how they end, and that a search goes on where it was."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from inline import use_inline
from own_process import unimixer
from searches import SPACE, finished, small_search, write_trials
from tiny import tiny_values

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.experiments import Machine
from unimixer.experiments.tuning import BEST, best_trial, read_trials, run_search
from unimixer.experiments.tuning.storage import JOURNAL, importances
from unimixer.experiments.tuning.trial import run_folder
from unimixer.training.config import load_recipe
from unimixer.training.run import RunFolder
from unimixer.training.train import train


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    use_inline(monkeypatch)


@pytest.mark.usefixtures("inline")
def test_the_best_recipe_trains_to_the_value_of_its_trial(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path / "search")
    rows = run_search(search, 4, quiet=True)
    assert [row.state for row in rows] == ["finished"] * 4
    assert rows[0].settings == {}
    assert rows[0].evaluations.keys() == {1, 2}
    best = best_trial(search, rows)
    assert best is not None
    assert best.number > 0
    assert best.value == max(row.value for row in rows if row.value is not None)
    text = (search.folder / BEST).read_text()
    assert text.startswith("# From unimixer tune: the best of 4 trials: 4 finished.\n# Trial ")
    run = train(load_recipe(search.folder / BEST), folder=tmp_path / "run", quiet=True)
    assert run.result is not None
    assert run.result["validation"]["is_click"]["auc"] == best.value
    # trial 0 is the recipe as it is
    plain = small_search(toy_folder, tmp_path / "another").recipe
    assert (train(plain, folder=tmp_path / "plain", quiet=True).result or {})["validation"]["is_click"]["auc"] == (
        rows[0].value
    )


@pytest.mark.usefixtures("inline")
def test_a_seed_gives_the_same_trials_in_one_call_and_in_two(toy_folder: Path, tmp_path: Path) -> None:
    one = run_search(small_search(toy_folder, tmp_path / "one", "training.max_steps=1"), 5, quiet=True)
    search = small_search(toy_folder, tmp_path / "two", "training.max_steps=1")
    run_search(search, 2, quiet=True)
    assert run_search(search, 5, quiet=True) == one
    assert run_search(search, 3, quiet=True) == one  # as many as there are, or fewer: nothing is trained
    other = run_search(small_search(toy_folder, tmp_path / "other", "training.max_steps=1", seed=1), 2, quiet=True)
    assert other[0] == one[0]
    assert other[1] != one[1]


@pytest.mark.usefixtures("inline")
def test_a_key_without_effect_is_not_part_of_a_trial(toy_folder: Path, tmp_path: Path) -> None:
    rows = run_search(small_search(toy_folder, tmp_path, "training.max_steps=1"), 6, quiet=True)
    kinds = {row.settings["optimizer.dense"]: "optimizer.weight_decay" in row.settings for row in rows[1:]}
    assert kinds == {"adam": False, "adamw": True}


@pytest.mark.usefixtures("inline")
def test_trials_never_see_the_test_part_and_leave_no_weights(toy_folder: Path, tmp_path: Path) -> None:
    run_search(small_search(toy_folder, tmp_path), 1, quiet=True)
    run = RunFolder(run_folder(tmp_path, 0))
    assert run.result is not None
    assert "test" not in run.result
    assert {line["kind"] for line in run.history()} == {"train", "validation"}
    assert not run.best_weights.exists()
    assert not run.checkpoints.exists()


@pytest.mark.usefixtures("inline")
def test_a_trial_below_the_median_is_pruned_at_its_first_evaluation(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path)
    write_trials(search, [finished(0.99) for _ in range(5)])
    row = run_search(search, 6, quiet=True)[5]
    assert (row.state, row.value, list(row.evaluations)) == ("pruned", None, [1])
    run = RunFolder(run_folder(tmp_path, 5))
    assert run.result is None
    assert max(line["step"] for line in run.history()) == 1
    assert best_trial(search, read_trials(tmp_path)) == read_trials(tmp_path)[0]


@pytest.mark.usefixtures("inline")
def test_fewer_finished_trials_prune_nothing(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path)
    write_trials(search, [finished(0.99) for _ in range(4)])
    assert run_search(search, 5, quiet=True)[4].state == "finished"


@pytest.mark.usefixtures("inline")
def test_a_failed_trial_counts_and_keeps_its_sentence(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"optimizer.dense_lr": {"choice": [1e30]}}
    rows = run_search(small_search(toy_folder, tmp_path, space=space), 2)
    assert [row.state for row in rows] == ["finished", "failed"]
    assert "nan is not a score; a model that diverged gives it, so lower the learning rate" in rows[1].error
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("[1/2] trial 0 finished 0.")
    assert first.endswith(": the recipe as it is")
    assert second == f"[2/2] trial 1 failed: {rows[1].error}"
    assert run_search(small_search(toy_folder, tmp_path, space=space), 2, quiet=True) == rows  # it is not tried again


def test_lower_is_better_for_a_loss(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path, "training.monitor=is_click.log_loss")
    write_trials(search, [finished(0.5), finished(0.4), finished(0.6)])
    best = best_trial(search, read_trials(tmp_path))
    assert best is not None
    assert best.number == 1


def test_a_search_goes_on_with_the_plan_that_it_began_with(toy_folder: Path, tmp_path: Path) -> None:
    write_trials(small_search(toy_folder, tmp_path), [])
    small_search(toy_folder, tmp_path)
    refused = {
        "recipe optimizer.dense_lr=default, not 0.01": {"overrides": ["optimizer.dense_lr=0.01"]},
        "space optimizer.dense.choice=": {"space": {"optimizer.dense_lr": SPACE["optimizer.dense_lr"]}},
        "seed=0, not 3": {"seed": 3},
    }
    for difference, changes in refused.items():
        with pytest.raises(UnimixerError, match=f"the search began with {difference}.*; choose another --out"):
            small_search(toy_folder, tmp_path, *changes.pop("overrides", []), **changes)  # type: ignore[call-overload]


def test_a_line_that_a_full_disk_cut_is_removed(toy_folder: Path, tmp_path: Path, inline: None) -> None:
    search = small_search(toy_folder, tmp_path, "training.max_steps=1")
    run_search(search, 1, quiet=True)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert [row.state for row in run_search(search, 2, quiet=True)] == ["finished"] * 2


def test_importance_is_that_of_the_key_that_moves_the_metric(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path)
    pairs = [(x / 20, (7 * x % 20) / 20) for x in range(20)]
    trials = [finished(a, {"model.embedding_dropout": a, "optimizer.dense_lr": b}) for a, b in pairs]
    write_trials(search, [finished(0.5), *trials[:9]])
    assert importances(tmp_path) == {}
    write_trials(search, trials[9:])
    shares = importances(tmp_path)
    assert list(shares) == ["model.embedding_dropout", "optimizer.dense_lr"]
    assert shares["model.embedding_dropout"] > 0.9


def test_without_optuna_one_sentence_says_what_to_install(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = small_search(toy_folder, tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"a search for settings needs .* pip install 'unimixer\[tune\]'"):
        run_search(search, 1)


def test_processes_share_the_trials_of_one_search(toy_folder: Path, tmp_path: Path) -> None:
    rows = run_search(small_search(toy_folder, tmp_path), 5, Machine(workers=2), quiet=True)
    assert [(row.number, row.state) for row in rows] == [(number, "finished") for number in range(5)]
    assert len({str(row.settings) for row in rows}) == 5
    assert (tmp_path / "workers.log").exists()


def test_a_killed_search_ends_in_the_trials_of_one_that_was_not(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ("training.epochs=4", "training.max_steps=null", "training.checkpoint_interval=5")
    folder, space = tmp_path / "killed", {"optimizer.dense_lr": SPACE["optimizer.dense_lr"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_values(toy_folder, "training.eval_interval=20", *long)))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    files = (tmp_path / "recipe.yaml", "--space", tmp_path / "space.yaml")
    process = unimixer("tune", *files, "--trials", 3, "--jobs", 1, "--out", folder)
    try:
        deadline = time.monotonic() + 200
        while not any(run_folder(folder, 1).glob("checkpoints/step-*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    before = read_trials(folder)
    assert [row.state for row in before] == ["finished", "running"]
    begun = (run_folder(folder, 1) / "config.yaml").stat().st_mtime_ns

    use_inline(monkeypatch)
    rows = run_search(small_search(toy_folder, folder, "training.eval_interval=20", *long, space=space), 3, quiet=True)
    assert (run_folder(folder, 1) / "config.yaml").stat().st_mtime_ns == begun  # continued, not begun again
    assert rows[0] == before[0]
    whole = small_search(toy_folder, tmp_path / "whole", "training.eval_interval=20", *long, space=space)
    assert run_search(whole, 3, quiet=True) == rows
    journal = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
    study = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
