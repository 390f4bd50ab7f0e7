"""Markdown, pictures and files of a report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_study import fake_study
from small import small_study

from unimixer.analysis.comparison import Question, compare_models
from unimixer.experiments import Machine, plan_experiment
from unimixer.experiments.results import load_rows
from unimixer.report.study import markdown, write_report
from unimixer.report.study_figures import _figures
from unimixer.report.study_tables import COLUMNS, METRIC_NAMES

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "small"
    fake_study(folder, params=(1_000_000, 4_000_000), seeds=5, failed=[("dcnv2", 1)], without=[("mlp", 2)], rows=800)
    write_report(folder, tasks=["click"], replicates=60)
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


def test_a_report_is_text_a_page_and_pictures(folder: Path) -> None:
    assert (folder / "report.html").stat().st_size > 4_000_000  # the plotting library is inside
    names = {path.name for path in (folder / "figures").iterdir()}
    kinds = ("differences", "seeds", "speed", "learning-rates", "budgets")
    assert names == {f"{kind}-click.{form}" for kind in kinds for form in ("png", "svg")}
    for path in (folder / "figures").iterdir():
        head = path.read_bytes()[:200]
        assert head.startswith(PNG) if path.suffix == ".png" else b"<?xml" in head


def test_pictures_have_room_for_long_names(folder: Path) -> None:
    longer = (
        "token-mixer, mixing balanced-permutation, expansion 0.75, pre-norm, dense muon, $\\rate$ of tables 0.002: "
    )
    rows = [{**row, "variant": longer + row["variant"]} for row in load_rows(folder).to_dicts()]
    report = compare_models(
        rows, folder, Question(f"{longer}rankmixer", ("click",), ("auc", "log_loss")), replicates=20
    )
    for name, draw in _figures(report):
        figure = draw()
        figure.draw_without_rendering()
        names = [text for axis in figure.axes for text in (*axis.get_yticklabels(), axis.title, axis.xaxis.label)]
        names += [text for legend in figure.legends for text in legend.get_texts()]
        inside, shown = figure.bbox.padded(1), [text for text in names if re.search("[a-z]", text.get_text())]
        assert len(shown) > 4
        for text in shown:
            box = text.get_window_extent()
            assert inside.contains(*box.min), (name, text)
            assert inside.contains(*box.max), (name, text)
        assert all(axis.get_window_extent().width > 100 for axis in figure.axes if axis.axison)


def test_every_table_has_all_columns_and_every_model(text: str) -> None:
    assert text.startswith("# Study small\n")
    assert text.count(f"| {' | '.join(COLUMNS)} |") == 2 * 4
    for metric in ("AUC", "UAUC", "log loss", "NE"):
        assert text.count(f"\n{metric} of click against rankmixer:\n") == 2
    assert "| dcnv2 | 1,000,137 | 2.00M | 1e-3 · 1e-3 | 4 (seed 1 failed) |" in text
    assert "| mlp | 4,000,137 | 8.00M | 1e-3 · 1e-3 | 4 (seed 2 missing) |" in text
    assert re.search(r"\| rankmixer \| .* \| base \|\n", text)
    assert "the true probabilities reach 0.7800" in text
    assert "p corrected for 9 comparisons" in text


def test_every_metric_says_which_models_are_better_and_worse_than_the_base(text: str) -> None:
    first = next(line for line in text.splitlines() if line.startswith("- AUC of click: "))
    assert "; worse than rankmixer: mlp (" in first
    assert first.startswith("- AUC of click: better than rankmixer: ")
    assert "; inconclusive against rankmixer: " in first


def test_nothing_is_bold_and_failures_are_shown(text: str) -> None:
    assert "**" not in text
    assert "2 of 54 rows:" in text
    assert r"UnimixerError: loss is nan at step 40 \| <b>lower</b> it" in text


def test_the_method_says_how_often_users_were_drawn_and_what_is_not_covered(text: str) -> None:
    method = text.partition("## Method")[2]
    assert "drawn again 60 times" in method
    assert "Not covered." in method
    assert "minus that of rankmixer" in method


def test_calibration_and_all_metrics_are_shown_with_their_spread(text: str) -> None:
    names = [name for name in METRIC_NAMES.values() if name != "excess log loss"]  # the truth is not known
    assert f"| model | {' | '.join(names)} |" in text
    assert re.search(r"\| rankmixer \|( \d\.\d{4} ± \d\.\d{4} \|){6}\n", text)


def test_a_second_report_of_the_same_rows_is_the_same(tmp_path: Path) -> None:
    fake_study(tmp_path, models=("rankmixer", "dcnv2"), seeds=2, rates=(1e-3,), rows=400)

    def files() -> dict[str, bytes]:
        page = write_report(tmp_path, tasks=["click"], replicates=20)
        made = [page, tmp_path / "report.md", *(tmp_path / "figures").iterdir()]
        return {path.name: path.read_bytes() for path in made}

    first = files()
    assert len(first) == 8
    assert files() == first


def test_one_model_alone_is_reported_without_differences(tmp_path: Path) -> None:
    fake_study(tmp_path, models=("rankmixer",), seeds=2, rates=(1e-3,), rows=400)
    page = write_report(tmp_path, replicates=20)
    assert page.exists()
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "AUC of click: nothing to compare" in text
    assert not list((tmp_path / "figures").glob("learning-rates*"))


def test_a_model_whose_runs_all_failed_is_still_in_the_tables(tmp_path: Path) -> None:
    fake_study(tmp_path, seeds=2, rates=(1e-3,), rows=400, failed=[("mlp", 0), ("mlp", 1)])
    found = compare_models(load_rows(tmp_path).to_dicts(), tmp_path, Question(base="rankmixer"), replicates=20)
    text = markdown(found, title="failed")
    assert "| mlp | 1,000,137 | 2.00M | 1e-3 · 1e-3 | 0 (seeds 0, 1 failed) |" in text
    assert write_report(tmp_path, tasks=["long_view"], replicates=20).exists()


def test_a_study_that_was_trained_is_reported(toy_folder: Path, tmp_path: Path) -> None:
    machine = Machine(workers=1, threads=1)
    experiment = plan_experiment(small_study(toy_folder), tmp_path / "real", machine)
    experiment.compute(quiet=True)
    write_report(tmp_path / "real", replicates=50)
    text = (tmp_path / "real" / "report.md").read_text(encoding="utf-8")
    assert "4 runs: 2 models, compared with rankmixer" in text
    assert re.search(r"\| lite \| [\d,]+ \| [\d.]+[KM] \| 1e-3 · 1e-3 \| 2 \| 0\.\d{4} \| 0\.\d{4} \|", text)
    assert "p corrected for 3 comparisons" in text
