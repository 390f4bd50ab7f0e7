"""Models at equal size: the ratio of errors that were planted comes out, over the sizes that both cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pytest

from unimixer.analysis.equal_size import SizeRatio, compare_at_equal_size
from unimixer.analysis.points import check_points
from unimixer.analysis.series import Reading, build_series

SIZES = (1e5, 4e5, 1.6e6, 6.4e6)


def points(
    errors: Mapping[str, float], sizes: Mapping[str, Sequence[float]], seeds: Sequence[int | None]
) -> pl.DataFrame:
    """Errors a N^-0.2, where a run of seed s has a factor of 1.01^s."""
    return pl.DataFrame(
        [
            {"model": model, "params": size, "seed": seed, "metric": a * size**-0.2 * 1.01 ** (seed or 0)}
            for model, a in errors.items()
            for size in sizes[model]
            for seed in seeds
        ]
    )


def compare(frame: pl.DataFrame, form: str = "error") -> list[SizeRatio]:
    series = build_series(check_points(frame, form=form), "params", Reading(form, irreducible_error=(0.0, 0.0)))
    return compare_at_equal_size({one.model: one for one in series}, form)


def test_the_ratio_of_power_laws_at_other_sizes_is_that_of_their_coefficients() -> None:
    """A power law is a straight line over logarithms, so what lies between the runs is exact."""
    shifted = [size * 1.7 for size in SIZES]
    pair = compare(points({"a": 0.9, "b": 1.0}, {"a": SIZES, "b": shifted}, [0, 1, 2]))[0]
    assert (pair.model, pair.other, pair.seeds) == ("a", "b", 3)
    assert (pair.smallest, pair.largest) == pytest.approx((1.7e5, 6.4e6))
    assert [pair.ratio, pair.at_smallest, pair.at_largest] == pytest.approx([0.9] * 3)
    assert pair.conclusion == "ahead"


def test_a_steeper_law_has_the_mean_over_the_logarithm_of_the_size() -> None:
    frame = points({"a": 1.0, "b": 1.0}, {"a": SIZES, "b": SIZES}, [0, 1])
    steeper = pl.when(pl.col("model") == "a").then(pl.col("metric") * (pl.col("params") / 8e5) ** -0.1)
    pair = compare(frame.with_columns(steeper.otherwise("metric").alias("metric")))[0]
    assert pair.ratio == pytest.approx(1.0)
    assert (pair.at_smallest, pair.at_largest) == pytest.approx((8**0.1, 8**-0.1))
    assert pair.slope == pytest.approx(-0.1)


def test_what_bends_both_curves_alike_does_not_hide_that_they_part() -> None:
    frame = points({"a": 1.0, "b": 1.0, "c": 1.0}, dict.fromkeys("abc", SIZES), [0, 1, 2])
    bend = (pl.col("params") / 8e5).log() ** 2 * 0.05
    parting = {("a", 0): 0.02, ("a", 1): 0.03, ("a", 2): 0.025}
    factor = pl.struct("model", "seed").map_elements(
        lambda run: parting.get((run["model"], run["seed"]), 0.0), return_dtype=pl.Float64
    )
    law = (factor * (pl.col("params") / 8e5).log() - bend).exp()
    first, _, third = compare(frame.with_columns(pl.col("metric") * law))
    deviation = 0.005 / 3**0.5
    assert first.slope == pytest.approx(0.025)
    assert first.slope_high == pytest.approx(0.025 + 4.302653 * deviation)
    assert first.slope_low == pytest.approx(0.025 - 4.302653 * deviation)
    t = 0.025 / deviation
    assert first.slope_p == pytest.approx(1 - t / (t * t + 2) ** 0.5)
    assert first.slope_holm == pytest.approx(3 * first.slope_p)
    assert (third.slope, third.slope_p) == (pytest.approx(0.0, abs=1e-12), 1.0)  # equal but for rounding


def test_the_interval_is_students_over_paired_seeds_and_pairs_are_corrected_together() -> None:
    frame = points({"a": 1.0, "b": 1.0, "c": 2.0}, dict.fromkeys("abc", SIZES), [0, 1, 2])
    noise = {0: 0.01, 1: 0.02, 2: 0.06}
    factor = pl.when(pl.col("model") == "a").then(pl.col("seed").replace_strict(noise).exp()).otherwise(1.0)
    first, second, third = compare(frame.with_columns(pl.col("metric") * factor))
    deviation = 0.0007**0.5 / 3**0.5
    ends = [0.03 - 4.302653 * deviation, 0.03 + 4.302653 * deviation]
    assert first.low is not None
    assert first.high is not None
    assert np.log([first.ratio, first.low, first.high]) == pytest.approx([0.03, *ends], abs=1e-6)
    t = 0.03 / deviation
    assert first.p == pytest.approx(1 - t / (t * t + 2) ** 0.5), "Student's tail with two degrees of freedom"
    assert (first.holm, first.conclusion) == (first.p, "level")
    assert second.p is not None
    assert second.holm == pytest.approx(2 * second.p)
    assert [second.conclusion, third.conclusion] == ["ahead", "ahead"]
    assert third.ratio == pytest.approx(0.5)


def test_a_gain_is_ahead_where_it_is_larger() -> None:
    frame = points({"a": 0.9, "b": 1.0}, {"a": SIZES, "b": SIZES}, [0, 1]).with_columns(pl.col("params") ** -1 * 1e10)
    assert compare(frame, "gain")[0].conclusion == "behind"


def test_runs_without_seeds_are_one_curve_without_an_interval() -> None:
    pair = compare(points({"a": 0.9, "b": 1.0}, {"a": SIZES, "b": SIZES}, [None]))[0]
    assert (pair.ratio, pair.p, pair.low, pair.seeds) == (pytest.approx(0.9), None, None, 0)
    assert (pair.slope, pair.slope_p) == (pytest.approx(0.0, abs=1e-9), None)


def test_models_without_a_common_size_are_not_compared() -> None:
    assert compare(points({"a": 0.9, "b": 1.0}, {"a": SIZES[:2], "b": SIZES[2:]}, [0, 1])) == []


def test_a_seed_that_lacks_a_size_does_not_count() -> None:
    frame = points({"a": 0.9, "b": 1.0}, {"a": SIZES, "b": SIZES}, [0, 1, 2])
    pair = compare(frame.filter(~((pl.col("seed") == 2) & (pl.col("params") == SIZES[1]) & (pl.col("model") == "b"))))[
        0
    ]
    assert pair.seeds == 2
