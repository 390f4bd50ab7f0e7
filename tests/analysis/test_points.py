"""Points: what is read, and one sentence with line and way out for every mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from unimixer.analysis.points import points_csv, read_points
from unimixer.analysis.power_law import IrreducibleError
from unimixer.analysis.scaling_laws import analyze
from unimixer.analysis.units import parse_number, parse_units
from unimixer.errors import UnimixerError

HEAD = "model,params,flops,metric\n"
GOOD = HEAD + "a,1000000,2e6,0.001\na,8M,16M,0.0015\n"


def write(folder: Path, text: str, name: str = "points.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_with_units_suffixes_and_datasets(tmp_path: Path) -> None:
    text = "Model,params,metric,dataset,status\na,4.5M,0.4%,x,ok\na,9,0.5,y,ok\na,12,,y,failed\n"
    points = read_points(write(tmp_path, text), units=parse_units("params=M,metric=percent"))
    assert points.models == ["x: a", "y: a"]
    assert [point.params for point in points.points] == [4.5e6, 9e6]
    assert [point.metric for point in points.points] == [pytest.approx(0.004), pytest.approx(0.005)]
    assert points.notes == ("1 run that failed left out",)
    assert points.metric == "gain"
    assert points.sizes == ["params"]


def test_parquet_and_a_folder_hold_the_same_points(tmp_path: Path) -> None:
    points = read_points(write(tmp_path, GOOD))
    pl.read_csv(points_csv(points).encode()).write_parquet(tmp_path / "points.parquet")
    again = read_points(tmp_path / "points.parquet")
    assert [(p.params, p.metric) for p in again.points] == [(p.params, p.metric) for p in points.points]
    assert read_points(tmp_path) == points


def test_the_usual_words_for_a_status_are_known(tmp_path: Path) -> None:
    words = ["ok", "Done", "finished", "completed", "success", "", "failed", "error", "crashed", "killed", "running"]
    rows = [f"a,{size}e6,0.1,{word}" for size, word in enumerate(words, 1)]
    points = read_points(write(tmp_path, "\n".join(["model,params,metric,status", *rows])))
    assert [point.params for point in points.points] == [1e6, 2e6, 3e6, 4e6, 5e6, 6e6]
    assert points.notes == ("5 runs that failed left out",)


def test_the_metric_is_an_auc_where_a_sweep_wrote_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model,params,metric,auc,best_auc\na,1e6,0.7,0.7,0.8\n")
    assert read_points(path).metric == "auc"
    assert read_points(write(tmp_path, GOOD), form="error").metric == "error"
    assert read_points(path, metric="error").metric == "error"


BAD = {
    "an empty metric": (GOOD + "a,4e6,8e6,\n", {}, "line 4 (a): metric is empty; remove the row, or give it status"),
    "NaN": (GOOD + "a,4e6,8e6,nan\n", {}, "line 4 (a): metric=nan: not a finite number; remove the row"),
    "no number": (GOOD + "a,big,8e6,0.1\n", {}, "line 4 (a): params='big' is not a number; correct the row"),
    "a duplicate": (GOOD + "a,1000000,2e6,0.001\n", {}, "line 4 (a) repeats points.csv, line 2 (a): the same model,"),
    "a seed twice": (
        "model,params,metric,seed\na,1e6,0.1,0\na,1e6,0.2,0\n",
        {},
        "line 3 (a) repeats points.csv, line 2 (a): the same model, size and seed; remove one of them",
    ),
    "millions": (HEAD + "a,135.5,,0.004\n", {}, "params=135.5 is too few for a ranker, as if it were counted in mil"),
    "T of FLOPs": (HEAD + "a,1e6,1.68,0.004\n", {}, "flops=1.68 is too few for a ranker"),
    "mixed units": (HEAD + "a,1.5,,0.1\na,14000000,,0.2\n", {"params": "M"}, "params=1.4e+13 with --units params=M is"),
    "percent": (HEAD + "a,1e6,,0.8141\n", {}, "metric=0.8141 is no difference of AUCs, which is at most 0.5; where"),
    "no gain": (HEAD + "a,1e6,,-0.002\n", {}, "metric=-0.002: a gain must be above 0, because the fit takes its log"),
    "size 0": (HEAD + "a,0,,0.002\n", {}, "params=0 must be greater than 0"),
    "no model": (HEAD + ",1e6,,0.002\n", {}, "line 2: no model; every row needs a name in the column model"),
    "no column": ("model,parms,metric\na,1,2\n", {}, "points.csv: no column 'params'; did you mean 'parms'?"),
    "a column twice": ("model,params,metric,params\na,1e6,0.1,2\n", {}, "points.csv: column 'params' appears twice;"),
    "a column in two forms": ("model,params,metric,Params\na,1e6,0.1,2\n", {}, "column 'params' appears twice; remove"),
    "a former column": (
        "model,params,metric,store\na,1e6,0.1,x\n",
        {},
        "points.csv: unknown column 'store'; it is now 'dataset'",
    ),
    "a status": (
        "model,params,metric,status\na,1e6,0.1,fine\n",
        {},
        "line 2: unknown status 'fine'; a run counts with ok, done,",
    ),
    "no dataset": ("model,params,metric,dataset\na,1e6,0.1,x\na,2e6,0.1,\n", {}, "line 3: no dataset, but other rows"),
    "nothing": ("", {}, "points.csv is empty; expected a header with model, params, metric and rows"),
    "no rows": (HEAD, {}, "points.csv: no rows; nothing to fit"),
    "ragged": (HEAD + "a,1,2,3,4,5,6\n", {}, "points.csv: not a table that can be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_every_mistake_is_one_sentence_with_its_line_and_the_way_out(case: str, tmp_path: Path) -> None:
    text, units, message = BAD[case]
    assert isinstance(units, Mapping)
    with pytest.raises(UnimixerError) as raised:
        read_points(write(tmp_path, text), units=units)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        (
            "auc",
            "74.9",
            "metric=74.9 is no AUC, which lies between 0 and 1; it looks like percent: give --units metric",
        ),
        ("auc", "-0.1", "metric=-0.1 is no AUC"),
        ("error", "25.1", "metric=25.1 is a very large error; it looks like percent"),
        ("error", "0", "metric=0: an error must be above 0"),
    ],
)
def test_a_metric_that_cannot_be_what_it_is_said_to_be_is_refused(
    metric: str, value: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnimixerError) as raised:
        read_points(write(tmp_path, f"model,params,metric\na,1e6,{value}\n"), metric=metric)
    assert message in str(raised.value)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="no such file; expected a CSV or Parquet file"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(UnimixerError, match=r"has no points\.csv; give a sweep's folder"):
        read_points(tmp_path)
    with pytest.raises(UnimixerError, match=r"no model 'aa'; did you mean 'a'\?|no model 'aa'; known: a"):
        read_points(write(tmp_path, GOOD)).only(["aa"])


def test_labels_with_commas_are_chosen_by_the_longest_name(tmp_path: Path) -> None:
    rows = "".join(f'"{name}",1000000,2e6,0.001\n' for name in ("lite", "lite, dots", "rule"))
    points = read_points(write(tmp_path, HEAD + rows))
    for text, chosen in (
        ("lite, dots,rule", ["lite, dots", "rule"]),
        ("lite,lite,dots", ["lite", "lite, dots"]),
        ("rule", ["rule"]),
    ):
        assert sorted(points.only([part.strip() for part in text.split(",")]).models) == chosen
    with pytest.raises(UnimixerError, match="no model 'dots'"):
        points.only(["rule", "dots"])


def test_numbers_and_units_are_written_as_people_do() -> None:
    assert [parse_number(text) for text in ("1.5K", "2G", " 3T ", "7%", "1e3")] == [1500, 2e9, 3e12, 0.07, 1000]
    for text, message in (
        ("params", "expected COLUMN=UNIT, for example params=M"),
        ("params=Q", "unit of params='Q' is not one of 1, K, M, B"),
        ("sizes=M", "column of --units='sizes' is not one of params, flops, metric"),
    ):
        with pytest.raises(UnimixerError, match=message):
            parse_units(text)


def test_the_excess_log_loss_of_a_sweep_is_fitted_with_a_floor_of_zero(tmp_path: Path) -> None:
    sizes = (1e6, 4e6, 16e6, 64e6)
    lines = [f"a,{size:.0f},0.7,0.7,{3 * size**-0.2}" for size in sizes]
    path = write(tmp_path, "model,params,metric,auc,excess_log_loss\n" + "\n".join(lines) + "\n")
    points = read_points(path)
    assert points.metric == "excess_log_loss"
    analysis = analyze(points, replicates=100)
    assert analysis.words == "excess log loss"
    assert analysis.laws["a"].b == pytest.approx(0.2, rel=1e-6)
    assert analysis.series["a"].irreducible_error == IrreducibleError.known(0.0)
    assert read_points(path, metric="auc").metric == "auc"
    with pytest.raises(UnimixerError, match="excess_log_loss is empty; fill it, or fit the AUC: --metric-is auc"):
        read_points(write(tmp_path, "model,params,metric,auc,excess_log_loss\na,1e6,0.7,0.7,\n"))
