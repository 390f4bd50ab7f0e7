"""From a table to exponents: the paper's own numbers, readings of a metric, what is left out and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unimixer.analysis.points import Points, check_points, read_points
from unimixer.analysis.scaling_laws import analyze, analyze_jointly
from unimixer.analysis.series import Reading
from unimixer.analysis.simulated_points import Truth, simulate
from unimixer.analysis.units import parse_floor, parse_sizes
from unimixer.errors import UnimixerError

PAPER = Path(__file__).with_name("paper.csv")
"""arXiv:2604.00590: gains over heterogeneous attention (AUC .744577), in percent, models of two blocks, parameters in
millions, from its tables of results, ablations and depth. It prints no more rows of these three curves."""
PRINTED = {"RankMixer": (0.002718, 0.116043), "UniMixer": (0.003032, 0.131973), "UniMixing-Lite": (0.003767, 0.141903)}
SIZES = [2.5e5, 1e6, 4e6, 16e6, 64e6]


def sweep(form: str = "error", **more: float) -> pl.DataFrame:
    rng = np.random.default_rng(4)
    truths = {"flat": Truth(0.9, 0.16, 0.22, form), "steep": Truth(1.5, 0.21, 0.22, form)}
    frame = simulate(truths, SIZES, generator=rng, seeds=2, seed_noise=0.001, **more)
    auc = 1 - frame["metric"]
    return frame.with_columns(metric=auc, auc=auc, best_auc=pl.lit(0.78))


def points(frame: pl.DataFrame, **more: str) -> Points:
    return check_points(frame, source="points.csv", **more)


def test_the_papers_exponents_come_out_of_its_own_rows() -> None:
    analysis = analyze(read_points(PAPER, units={"params": "M", "metric": "percent"}), replicates=200)
    for model, (coefficient, exponent) in PRINTED.items():
        law = analysis.laws[model]
        assert law.b == pytest.approx(exponent, rel=0.03)
        assert law.a(1e6) == pytest.approx(coefficient, rel=0.02)
    order = sorted(analysis.laws, key=lambda model: analysis.laws[model].b)
    assert order == ["RankMixer", "UniMixer", "UniMixing-Lite"]
    assert analysis.laws["RankMixer"].b_interval is None  # two rows
    assert all(pair.conclusion == "inconclusive" for pair in analysis.pairs)  # and three rows tell nothing apart
    assert any("RankMixer: as many sizes as coefficients" in text for text in analysis.warnings)


def test_a_sweep_of_aucs_is_fitted_as_an_error_above_the_best_reachable() -> None:
    analysis = analyze(points(sweep()), at=[64e6 * 20])
    assert analysis.words == "1 \N{MINUS SIGN} AUC"
    assert analysis.laws["steep"].b == pytest.approx(0.21, abs=0.01)
    assert analysis.laws["flat"].c == pytest.approx(0.22)
    assert analysis.pairs[0].conclusion == "flatter"
    one = analysis.predicted[0]
    assert one.times == pytest.approx(20)
    assert one.band is not None
    assert one.run is not None
    assert one.run[0] < one.band[0] < one.value < one.band[1] < one.run[1]
    assert any("predicted at more than 8 times the largest size" in text for text in analysis.warnings)
    again = analyze(points(sweep()), at=[64e6 * 20])
    assert again.predicted == analysis.predicted  # the same seed draws the same


def test_readings_of_the_same_table_agree() -> None:
    frame = sweep()
    known = analyze(points(frame)).laws["steep"].b
    bare = points(frame.drop("best_auc"))
    assert analyze(bare, reading=Reading(best_auc=0.78)).laws["steep"].b == pytest.approx(known)
    assert analyze(bare, reading=Reading(irreducible_error=(0.22, 0.22))).laws["steep"].b == pytest.approx(known)
    fitted = analyze(bare, replicates=200).laws["steep"]
    assert fitted.irreducible_error.fitted
    assert fitted.b == pytest.approx(known, abs=0.05)
    errors = frame.drop("auc", "best_auc").with_columns(metric=1 - pl.col("metric"))
    assert analyze(points(errors, form="error"), reading=Reading(irreducible_error=(0.22, 0.22))).laws[
        "steep"
    ].b == pytest.approx(known)
    gains = analyze(points(frame), reading=Reading(form="gain", base_auc=0.6))
    assert gains.words == "dAUC"
    assert gains.laws["steep"].at(4e6)[0] == pytest.approx(0.78 - 1.5 * 4e6**-0.21 - 0.6, rel=0.2)


def test_over_flops_and_latency_runs_of_one_size_stay_together() -> None:
    frame = sweep().with_columns(latency_ms=pl.Series(np.linspace(1, 2, 20)) * pl.col("params").sqrt())
    assert analyze(points(frame), x="flops").laws["steep"].b == pytest.approx(0.21, abs=0.01)
    series = analyze(points(frame), x="latency_ms").series["steep"]
    assert series.sizes == 5
    assert len(series.x) == 10
    with pytest.raises(UnimixerError, match="no latency_ms; fill the column, or fit over another: params, flops"):
        analyze(points(sweep()), x="latency_ms")


def test_where_rows_vary_a_curve_takes_the_largest_and_the_joint_fit_all() -> None:
    rows = [1e6, 8e6, 64e6]
    frames = [
        sweep().with_columns(metric=pl.col("metric") - 0.3 * (n / 1e6) ** -0.3, rows=pl.lit(n)).filter(model="steep")
        for n in rows
    ]
    both = points(pl.concat(frames))
    analysis = analyze(both, replicates=100)
    assert {point.rows for point in analysis.series["steep"].points} == {64e6}
    assert any("10 of 30 runs, those of 64,000,000 training rows" in text for text in analysis.warnings)
    law = analyze_jointly(both, replicates=50)["steep"]
    assert (law.b, law.e) == pytest.approx((0.21, 0.3), abs=0.02)
    assert analyze_jointly(points(sweep())) == {}


def test_over_rows_a_curve_takes_the_runs_of_the_largest_size() -> None:
    runs = [
        {"model": "m", "params": params, "rows": rows, "seed": seed, "metric": (params * rows**2) ** -0.2 * 1.01**seed}
        for params in (1e6, 4e6)
        for rows in (1e6, 4e6, 16e6)
        for seed in (0, 1)
    ]
    all_runs = check_points(pl.DataFrame(runs), form="error")
    assert all_runs.sizes == ["params", "rows"]
    analysis = analyze(all_runs, x="rows", reading=Reading(irreducible_error=(0.0, 0.0)), replicates=100)
    assert analysis.laws["m"].b == pytest.approx(0.4)
    assert {point.params for point in analysis.series["m"].points} == {4e6}
    assert any("6 of 12 runs, those of 4,000,000 dense parameters" in text for text in analysis.warnings)
    one_size = check_points(pl.DataFrame(runs[6:]), form="error")
    assert one_size.sizes == ["rows"]
    with pytest.raises(UnimixerError, match=r"m: 1 size, and .* are needed.*; fit over another: rows"):
        analyze(one_size, replicates=100)


def test_a_step_back_is_named_and_a_model_with_too_few_sizes_is_left_out() -> None:
    frame = sweep().with_columns(
        metric=pl.when((pl.col("params") == 16_000_000) & (pl.col("model") == "steep"))
        .then(pl.col("metric") - 0.04)
        .otherwise(pl.col("metric"))
    )
    few = pl.concat([frame, frame.filter(model="flat").head(2).with_columns(model=pl.lit("few"))])
    analysis = analyze(points(few), replicates=100)
    assert any(
        "steep: not monotone in 1 of 4 steps" in text
        and "from 0.2816 at params=4.00M to 0.3058 at 16.0M (points.csv, line 18 (steep))" in text
        for text in analysis.warnings
    )
    assert analysis.left_out == {"few": "1 size, and 2 are needed"}
    assert any("few: not fitted: 1 size" in text for text in analysis.warnings)


def test_what_cannot_be_is_refused_with_the_way_out() -> None:
    frame = sweep()
    errors = frame.drop("auc")
    for values, arguments, message in (
        (
            frame.filter(pl.col("params") == 250_000),
            {},
            "too few points to fit anything: flat: 1 size, and 2 are needed",
        ),
        (frame, {"reading": Reading(form="gain")}, "a gain counts from a base: give --base-auc"),
        (frame, {"reading": Reading(form="gain", base_auc=0.9)}, r"is not above the base 0\.9"),
        (frame, {"reading": Reading(best_auc=0.7)}, r"floor=0\.3 must lie below every error"),
        (frame, {"reading": Reading(best_auc=78.0)}, "best_auc=78 is no AUC"),
        (frame, {"reading": Reading(irreducible_error=(0.3, 0.2))}, "floor=0.3,0.2: expected 0 <= LOW <= HIGH"),
        (frame, {"replicates": 10}, "replicates=10: percentiles of 95% intervals need at least 100"),
        (frame, {"x": "parameters"}, "x='parameters' is not one of params, flops, latency_ms, rows"),
        (
            errors.with_columns(metric=pl.lit(0.1) * pl.col("metric")),
            {"reading": Reading(form="error")},
            "holds gains, and the error form needs errors or AUCs",
        ),
        (
            frame.with_columns(best_auc=pl.Series([0.78, 0.79] * 10)),
            {},
            "best_auc is 0.78 in some rows and 0.79 in others; one data set has one",
        ),
    ):
        with pytest.raises(UnimixerError, match=message):
            analyze(points(values), **arguments)
    with pytest.raises(UnimixerError, match=r"in every model the error rises .* say --metric-is auc"):
        analyze(points(errors, metric="error"))
    with pytest.raises(UnimixerError, match=r"points\.csv holds errors: fit --form error"):
        analyze(points(errors.with_columns(metric=1 - pl.col("metric")), metric="error"), reading=Reading(form="gain"))
    falling = errors.with_columns(metric=0.5 - pl.col("metric") / 2)
    with pytest.raises(UnimixerError, match=r"in every model the gain falls .* say --metric-is error"):
        analyze(points(falling))


def test_many_pairs_need_many_draws() -> None:
    frame = pl.concat([sweep().filter(model="flat").with_columns(model=pl.lit(f"m{n}")) for n in range(5)])
    analysis = analyze(points(frame), replicates=200)
    assert len(analysis.pairs) == 10
    assert any("200 draws are too few to tell any of 10 pairs apart" in text for text in analysis.warnings)


def test_options_are_read_as_people_write_them() -> None:
    assert parse_sizes("64M, 1B") == [64e6, 1e9]
    assert parse_floor("0.1,0.2") == (0.1, 0.2)
    for text in ("x", "0.3,0.1", "1,2,3", ""):
        with pytest.raises(UnimixerError, match="--floor"):
            parse_floor(text)
