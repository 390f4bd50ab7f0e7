"""From rows and scores to conclusions: better, worse or inconclusive, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import QUALITY, fake_study

from unimixer import metrics
from unimixer.analysis.comparison import (
    BASE,
    BETTER,
    INCONCLUSIVE,
    NO_SCORES,
    NO_USERS,
    ONE_SEED,
    WORSE,
    ComparisonReport,
    Question,
    Table,
    compare_models,
)
from unimixer.analysis.selection import choose, comparison_groups, find_base
from unimixer.analysis.significance import holm
from unimixer.errors import UnimixerError
from unimixer.experiments.results import load_rows

LITE = "unimixer-lite, 4 blocks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_study(tmp_path_factory.mktemp("study"), seeds=5, without=[("mlp", 2)], failed=[("dcnv2", 1)])


@pytest.fixture(scope="module")
def comparison(folder: Path) -> ComparisonReport:
    return compare_models(load_rows(folder).to_dicts(), folder, replicates=200, seeds=range(5))


def the_table(comparison: ComparisonReport, task: str = "click", metric: str = "auc") -> Table:
    table = comparison.table(comparison.groups[0], task, metric)
    assert table is not None
    return table


def words(table: Table) -> dict[str, str]:
    return {line.chosen.variant: line.conclusion for line in table.lines}


def test_models_are_better_worse_or_inconclusive_against_the_base(comparison: ComparisonReport) -> None:
    for metric in ("auc", "log_loss", "ne"):  # of two, lower is better
        assert words(the_table(comparison, metric=metric)) == {
            "rankmixer": BASE,
            LITE: BETTER,
            "dcnv2": INCONCLUSIVE,
            "mlp": WORSE,
        }
    losses = {line.chosen.variant: line.compared for line in the_table(comparison, metric="log_loss").lines}
    assert losses[LITE] is not None
    assert losses[LITE].estimate < 0


def test_the_difference_is_that_of_the_seeds_both_have(comparison: ComparisonReport, folder: Path) -> None:
    labels = np.load(folder / "scores" / "00000001-labels.npy")[:, 0]

    def value(backbone: str, seed: int) -> float:
        name = f"little-world-{backbone}-1000000-lr0.001-s{seed}.npy"
        return metrics.auc(np.load(folder / "scores" / name)[:, 0], labels)

    by_model = {line.chosen.variant: line for line in the_table(comparison).lines}
    pairs = [value("dcnv2", seed) - value("rankmixer", seed) for seed in (0, 2, 3, 4)]
    compared = by_model["dcnv2"].compared
    assert compared is not None
    assert compared.by_seed == pytest.approx(pairs, abs=1e-12)
    assert compared.estimate == pytest.approx(np.mean(pairs), abs=1e-12)
    assert by_model[LITE].mean == pytest.approx(np.mean([value("unimixer-lite", seed) for seed in range(5)]))
    assert by_model[LITE].spread == pytest.approx(np.std([value("unimixer-lite", s) for s in range(5)], ddof=1))


def test_failed_and_missing_seeds_are_named(comparison: ComparisonReport) -> None:
    by_model = {line.chosen.variant: line.chosen for line in the_table(comparison).lines}
    assert set(by_model["dcnv2"].failed) == {1}
    assert by_model["mlp"].missing == (2,)
    assert by_model[LITE].missing == ()
    assert [row["key"] for row in comparison.failures] == ["little-world-dcnv2-1000000-lr0.001-s1"]


def test_p_is_corrected_over_tasks_metrics_and_models_and_normalised_entropy_is_no_second_look(
    comparison: ComparisonReport,
) -> None:
    tables = [table for table in comparison.tables if table.metric != "ne"]
    lines = [line for table in tables for line in table.lines if line.compared is not None]
    assert {table.comparisons for table in comparison.tables} == {len(lines)} == {2 * 3 * 3}
    assert [line.holm for line in lines] == holm([line.compared.p for line in lines])  # type: ignore[union-attr,misc]
    losses, entropies = the_table(comparison, metric="log_loss"), the_table(comparison, metric="ne")
    for loss, entropy in zip(losses.lines, entropies.lines, strict=True):
        if loss.compared is not None and entropy.compared is not None:
            assert entropy.holm == max(loss.holm or 0, entropy.compared.p or 0)
            assert entropy.compared.p == pytest.approx(loss.compared.p, rel=0.1, abs=1e-3)


def test_fewer_metrics_and_tasks_are_fewer_comparisons(comparison: ComparisonReport, folder: Path) -> None:
    rows = load_rows(folder).to_dicts()
    fewer = compare_models(rows, folder, Question(tasks=["long_view"], metrics=["uauc"]), replicates=50)
    assert [(table.task, table.metric, table.comparisons) for table in fewer.tables] == [("long_view", "uauc", 3)]


def test_only_rows_at_the_chosen_rate_count(comparison: ComparisonReport, folder: Path) -> None:
    for line in the_table(comparison).lines:
        assert line.chosen.rates.dense == 1e-3
        assert {row["phase"] for row in line.chosen.finished.values()} <= {"both", "final"}
    assert len(comparison.rows) == len(list((folder / "rows").glob("*.json"))) == 4 * 7 - 1


def test_an_open_search_stands_at_its_best_rate_so_far(folder: Path) -> None:
    rows = [{**row, "phase": "search"} for row in load_rows(folder).to_dicts() if row["seed"] == 0]
    (one, *_) = choose(rows, ("click", "long_view"), seeds=range(2))
    assert (one.variant, one.rates.dense, list(one.finished), one.missing) == ("rankmixer", 1e-3, [0], (1,))


def test_one_seed_gives_an_interval_and_no_verdict(tmp_path: Path) -> None:
    fake_study(tmp_path, seeds=1)
    one = compare_models(load_rows(tmp_path).to_dicts(), tmp_path, replicates=50)
    assert words(the_table(one)) == {"rankmixer": BASE, **{name: ONE_SEED for name in QUALITY if name != "rankmixer"}}
    line = the_table(one).lines[1]
    assert line.compared is not None
    assert line.compared.low < line.compared.estimate < line.compared.high
    assert (line.compared.p, line.holm, line.spread, the_table(one).comparisons) == (None, None, None, 0)


def test_models_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    fake_study(tmp_path, seeds=2, without=[("rankmixer", 0)], failed=[("mlp", 1)])
    comparison = compare_models(load_rows(tmp_path).to_dicts(), tmp_path, replicates=50)
    by_model = {line.chosen.variant: line for line in the_table(comparison).lines}
    assert by_model["mlp"].conclusion == NO_SCORES
    assert by_model["mlp"].mean is not None
    assert by_model[LITE].compared is not None
    assert by_model[LITE].compared.seeds == 1


def test_the_rows_of_one_user_have_no_interval_which_is_the_reason_given(tmp_path: Path) -> None:
    fake_study(tmp_path, seeds=2, users=1, rows=200)
    comparison = compare_models(load_rows(tmp_path).to_dicts(), tmp_path, replicates=10)
    assert set(words(the_table(comparison)).values()) == {BASE, NO_USERS}


def test_without_kept_scores_means_are_shown_and_nothing_is_judged(tmp_path: Path) -> None:
    fake_study(tmp_path)
    for path in (tmp_path / "scores").iterdir():
        path.unlink()
    comparison = compare_models(load_rows(tmp_path).to_dicts(), tmp_path)
    assert set(words(the_table(comparison)).values()) == {BASE, NO_SCORES}
    assert all(line.mean is not None for line in the_table(comparison).lines)


def test_budgets_and_data_sets_are_compared_within(tmp_path: Path) -> None:
    fake_study(tmp_path, datasets=("one", "two"), params=(1_000_000, 4_000_000), seeds=2, rows=600)
    comparison = compare_models(
        load_rows(tmp_path).to_dicts(), tmp_path, Question(tasks=["click"], metrics=["auc"]), replicates=20
    )
    assert [group.words for group in comparison.groups] == [
        *("one, 1M parameters", "one, 4M parameters", "two, 1M parameters", "two, 4M parameters")
    ]
    assert [table.comparisons for table in comparison.tables] == [3, 3, 3, 3]


def test_the_base_stands_in_every_group(folder: Path) -> None:
    groups = {"rankmixer": "depth", LITE: "depth", "dcnv2": "readout", "mlp": "readout"}
    rows = [{**row, "group": groups[row["variant"]]} for row in load_rows(folder).to_dicts()]
    variants = {
        group.model_group: {row["variant"] for row in part}
        for group, part in comparison_groups(rows, "rankmixer").items()
    }
    assert variants == {"depth": {"rankmixer", LITE}, "readout": {"rankmixer", "dcnv2", "mlp"}}


def test_rows_without_users_are_compared_row_by_row(tmp_path: Path) -> None:
    fake_study(tmp_path, rows=500)
    (tmp_path / "scores" / "00000001-users.npy").unlink()
    comparison = compare_models(load_rows(tmp_path).to_dicts(), tmp_path, Question(tasks=["click"]), replicates=20)
    assert the_table(comparison).users == 500
    assert set(words(the_table(comparison, metric="uauc")).values()) == {BASE, NO_SCORES}


def test_the_base_is_a_label_or_a_backbone(folder: Path) -> None:
    rows = load_rows(folder).to_dicts()
    assert find_base(rows, None) == "rankmixer"
    assert find_base(rows, "unimixer-lite") == find_base(rows, LITE) == LITE
    comparison = compare_models(rows, folder, Question(base="unimixer-lite", metrics=["auc"]), replicates=20)
    assert words(the_table(comparison))["rankmixer"] == WORSE
    deeper = [*rows, {**rows[-1], "variant": "unimixer-lite, 2 blocks", "backbone": "unimixer-lite"}]
    with pytest.raises(UnimixerError, match="could be any of: unimixer-lite, 4 blocks · unimixer-lite, 2 blocks"):
        find_base(deeper, "unimixer-lite")


def _shorten(folder: Path) -> None:
    path = folder / "scores" / "little-world-mlp-1000000-lr0.001-s0.npy"
    np.save(path, np.load(path)[:-1])


def _other_scores(folder: Path) -> None:
    path = folder / "scores" / "little-world-mlp-1000000-lr0.001-s0.npy"
    np.save(path, -np.load(path))


def _one_column(folder: Path) -> None:
    path = folder / "scores" / "00000001-labels.npy"
    np.save(path, np.load(path)[:, :1])


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"base": "rankmixr"}, "unknown base 'rankmixr'; did you mean 'rankmixer'"),
        (None, {"tasks": ["clicks"]}, "unknown task 'clicks'; did you mean 'click'"),
        (None, {"rows": []}, "has no rows yet"),
        (_shorten, {}, "has 599 rows, the test split 600"),
        (_other_scores, {}, "they are of different runs"),
        (_one_column, {}, r"expected \(rows, 2\): one column a task"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: Any, arguments: dict[str, Any], message: str) -> None:
    fake_study(tmp_path, seeds=2, rows=600)
    rows = arguments.pop("rows", load_rows(tmp_path).to_dicts())
    if change is not None:
        change(tmp_path)
    with pytest.raises(UnimixerError, match=message):
        compare_models(rows, tmp_path, Question(**arguments), replicates=20)


def test_tasks_are_those_of_the_scores(folder: Path) -> None:
    assert {json.loads(row["tasks"])[1] for row in load_rows(folder).to_dicts()} == {"long_view"}
