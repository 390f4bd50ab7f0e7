"""The report of a search: counts, tables, pictures and the page, from a journal without trained trials."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import pytest
from searches import finished, small_search, write_trials

from unimixer.analysis.formatting import NONE
from unimixer.experiments.tuning import OpenSearch, read_trials
from unimixer.report.tune import read_report, sentences, write_tune_report

PRUNED, FAIL = optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL


@pytest.fixture
def search(toy_folder: Path, tmp_path: Path) -> OpenSearch:
    """Twelve finished trials, one pruned, one failed; trial 12 is the best."""
    search = small_search(toy_folder, tmp_path / "found")
    trials = [finished(0.60)]
    trials += [finished(0.5 + x / 100, {"optimizer.dense_lr": x / 100, "a.b": (7 * x % 11) / 11}) for x in range(1, 11)]
    trials.append(finished(0.41, None, state=PRUNED, intermediate_values={1: 0.41}))
    trials.append(finished(0.75, {"optimizer.dense_lr": 0.25, "a.b": 0.5}))
    trials.append(finished(None, state=FAIL, user_attrs={"error": "step 2: the loss is <nan>"}))
    write_trials(search, trials)
    return search


def test_the_report_says_how_much_was_tried_and_names_the_best(search: OpenSearch) -> None:
    report = read_report(search, read_trials(search.folder))
    counted, best, luck = sentences(report)
    assert counted == (
        "14 trials: 12 finished, 1 pruned, 1 failed; 25 evaluations of is_click.auc on validation. "
        "No trial saw the test part."
    )
    assert best.startswith("Best on validation: trial 12 with 0.7500, +0.1500 against the recipe as it is")
    assert luck.startswith("The best of 12 finished trials is partly the luckiest one")
    assert write_tune_report(report) == search.folder / "report.html"
    text = (search.folder / "report.md").read_text()
    assert f"| 12 | 0.7500 | {NONE} | 0.25 | {NONE} |" in text
    assert f"| recipe as it is | 0.6000 | {NONE} | {NONE} | {NONE} |" in text
    assert text.index("| 12 | 0.75") < text.index("| recipe as it is") < text.index("| 9 | 0.59")
    assert "| 13 | step 2: the loss is <nan> |" in text
    assert "| optimizer.dense_lr | 0." in text
    page = (search.folder / "report.html").read_text()
    assert "step 2: the loss is &lt;nan&gt;" in page
    assert page.count('src="data:image/png') == 2
    drawn = {path.name for path in (search.folder / "figures").iterdir()}
    assert drawn == {"history.png", "history.svg", "importance.png", "importance.svg"}


def test_nothing_better_and_nothing_finished_are_said(toy_folder: Path, tmp_path: Path) -> None:
    search = small_search(toy_folder, tmp_path / "same")
    write_trials(search, [finished(0.7), finished(0.6)])
    assert sentences(read_report(search, read_trials(search.folder)))[1:] == [
        "No trial is better than the recipe as it is (0.7000)."
    ]
    search = small_search(toy_folder, tmp_path / "none")
    write_trials(search, [finished(None, state=FAIL)])
    report = read_report(search, read_trials(search.folder))
    assert sentences(report)[1:] == ["No trial has finished, so there is no best recipe."]
    assert write_tune_report(report).exists()


def test_without_what_draws_there_is_markdown(search: OpenSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = read_report(search, read_trials(search.folder))
    assert write_tune_report(report) == search.folder / "report.md"
    assert not (search.folder / "figures").exists()
