"""Effects equal those of tea-tasting and of a textbook; CUPED narrows them as the correlation predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unimixer.abtest.analysis.sequential import Sequential
from unimixer.abtest.analysis.statistics import compare, corrected, moments, moments_of, standardized_difference
from unimixer.errors import UnimixerError

SIZES = (401, 350)


def arms(seed: int = 0) -> list[dict[str, Any]]:
    """Views, clicks and two values from before, of two arms of different sizes and spreads."""
    rng = np.random.default_rng(seed)
    columns = []
    for index, size in enumerate(SIZES):
        before = rng.gamma(2.0, 3.0, size)
        views = rng.poisson(5 + before) + 1
        clicks = rng.binomial(views, 0.2 + 0.02 * index)
        columns.append({"clicks": clicks, "views": views, "before": before, "other": rng.normal(size=size) + clicks})
    return columns


def exactly(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def test_a_mean_has_the_interval_and_the_p_value_of_welch() -> None:
    control, treatment = arms()
    effect = compare(moments_of(control), moments_of(treatment), numerator="clicks")
    expected = stats.ttest_ind(treatment["clicks"], control["clicks"], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert effect.p == exactly(expected.pvalue)
    assert (effect.low, effect.high) == (exactly(interval.low), exactly(interval.high))
    assert effect.difference == exactly(treatment["clicks"].mean() - control["clicks"].mean())
    assert (effect.units_control, effect.units) == SIZES


def test_a_ratio_has_the_variance_of_the_delta_method() -> None:
    control, treatment = arms()
    effect = compare(moments_of(control), moments_of(treatment), numerator="clicks", denominator="views")
    variances, ratios = [], []
    for arm in (control, treatment):
        ratio = arm["clicks"].sum() / arm["views"].sum()
        linear = (arm["clicks"] - ratio * arm["views"]) / arm["views"].mean()
        variances.append(linear.var(ddof=1) / len(linear))
        ratios.append(ratio)
    assert effect.difference == exactly(ratios[1] - ratios[0])
    assert effect.deviation == exactly(np.sqrt(sum(variances)))


@pytest.mark.parametrize(
    ("denominator", "covariates"), [(None, ()), ("views", ()), (None, ("before",)), ("views", ("before",))]
)
def test_effects_equal_those_of_tea_tasting(denominator: str | None, covariates: tuple[str, ...]) -> None:
    import tea_tasting as tt

    control, treatment = arms()
    names = list(control)
    table = pa.table(
        {name: np.concatenate([control[name], treatment[name]]) for name in names}
        | {"variant": np.repeat(["control", "treatment"], SIZES)}
    )
    metric = tt.RatioOfMeans("clicks", denominator, *covariates)
    found = metric.analyze(table, "control", "treatment", "variant")
    effect = compare(
        moments_of(control), moments_of(treatment), numerator="clicks", denominator=denominator, covariates=covariates
    )
    assert effect.difference == exactly(found.effect_size)
    assert (effect.low, effect.high) == (exactly(found.effect_size_ci_lower), exactly(found.effect_size_ci_upper))
    assert effect.relative == exactly(found.rel_effect_size)
    assert effect.relative_low == exactly(found.rel_effect_size_ci_lower)
    assert effect.relative_high == exactly(found.rel_effect_size_ci_upper)
    assert effect.p == exactly(found.pvalue)


def test_a_covariate_narrows_the_interval_by_the_factor_of_its_correlation() -> None:
    rng = np.random.default_rng(1)
    size, rho = 200_000, 0.8
    before = rng.normal(size=2 * size)
    value = 10 + rho * before + np.sqrt(1 - rho**2) * rng.normal(size=2 * size)
    parts = [moments_of({"y": value[s], "x": before[s]}) for s in (slice(size), slice(size, None))]
    effect = compare(*parts, numerator="y", covariates=["x"])
    assert effect.narrowed == pytest.approx(np.sqrt(1 - rho**2), abs=0.005)
    measured = np.corrcoef(value, before)[0, 1]
    assert effect.narrowed == pytest.approx(np.sqrt(1 - measured**2), rel=1e-4)


def test_several_covariates_are_a_regression_on_all_of_them() -> None:
    control, treatment = arms()
    effect = compare(moments_of(control), moments_of(treatment), numerator="clicks", covariates=["before", "other"])
    joined = {name: np.concatenate([control[name], treatment[name]]) for name in control}
    design = np.column_stack([joined["before"], joined["other"]])
    design = design - design.mean(axis=0)
    weights, *_ = np.linalg.lstsq(design, joined["clicks"] - joined["clicks"].mean(), rcond=None)
    rest = joined["clicks"] - design @ weights
    first, second = rest[: SIZES[0]], rest[SIZES[0] :]
    assert effect.difference == exactly(second.mean() - first.mean())
    assert effect.deviation == exactly(np.sqrt(first.var(ddof=1) / SIZES[0] + second.var(ddof=1) / SIZES[1]))


def test_a_copied_or_constant_covariate_changes_nothing() -> None:
    control, treatment = ({**arm, "copy": arm["before"], "one": np.ones_like(arm["before"])} for arm in arms())
    parts = (moments_of(control), moments_of(treatment))
    once = compare(*parts, numerator="clicks", covariates=["before"])
    twice = compare(*parts, numerator="clicks", covariates=["before", "copy", "one"])
    assert (twice.low, twice.high) == (pytest.approx(once.low, rel=1e-6), pytest.approx(once.high, rel=1e-6))


def test_a_covariate_that_is_the_metric_itself_is_left_out() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 1.0, (2, 300))
    parts = [moments_of({"y": row, "x": row}) for row in values]
    alone, helped = (compare(*parts, numerator="y", covariates=names) for names in ((), ("x",)))
    assert helped == alone
    assert helped.high > helped.low


def test_a_sequential_interval_is_wider_by_its_multiplier_and_its_p_value_fits_it() -> None:
    parts = [moments_of(arm) for arm in arms()]
    fixed = compare(*parts, numerator="clicks")
    at = Sequential(planned=1_000)
    effect = compare(*parts, numerator="clicks", sequential=at)
    assert effect.high - effect.difference == exactly(at.multiplier(sum(SIZES)) * fixed.deviation)
    edge = compare(*parts, numerator="clicks", sequential=at, alpha=effect.p)
    assert edge.low * edge.high == pytest.approx(0, abs=1e-9)  # one end lies at 0


def test_an_arm_of_one_value_has_no_interval_but_a_point() -> None:
    parts = [moments_of({"y": np.full(9, 2.0)}) for _ in range(2)]
    effect = compare(*parts, numerator="y")
    assert (effect.difference, effect.low, effect.high, effect.p, effect.narrowed) == (0, 0, 0, 1, 1)


def test_a_mean_of_zero_has_no_relative_effect() -> None:
    rng = np.random.default_rng(0)
    parts = [moments_of({"y": np.zeros(50)}), moments_of({"y": rng.poisson(1.0, 50)})]
    effect = compare(*parts, numerator="y")
    assert effect.relative is None
    assert effect.low > 0


@pytest.mark.parametrize("sequential", [None, Sequential(1_000)])
def test_a_value_that_is_not_surely_positive_has_no_relative_effect(sequential: Sequential | None) -> None:
    values = np.random.default_rng(0).normal(size=120)
    parts = [moments_of({"y": values - values.mean() + level}) for level in (1e-9, 1.0)]
    effect = compare(*parts, numerator="y", sequential=sequential)
    assert (effect.relative, effect.relative_low, effect.relative_high) == (None, None, None)
    assert effect.difference == pytest.approx(1.0)
    assert effect.low < 1 < effect.high


@pytest.mark.parametrize("seed", range(20))
def test_a_metric_that_is_a_multiple_of_its_covariate_is_compared_without_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=200) * scale for scale in (1.0, 3.0)]
    factor = rng.normal()
    parts = [moments_of({"y": one, "x": factor * one}) for one in columns]
    effect = compare(*parts, numerator="y", covariates=["x"], sequential=Sequential(1_000))
    assert effect.difference == pytest.approx(columns[1].mean() - columns[0].mean())
    assert effect.narrowed == 1


def test_rounding_below_zero_is_a_metric_without_variance() -> None:
    parts = [moments(100, {"y": 0.3}, {("y", "y"): variance}) for variance in (-1e-34, 1e-34)]
    effect = compare(*parts, numerator="y")
    assert (effect.difference, effect.low, effect.high, effect.p) == (0, 0, 0, 1)


def test_one_sided_bounds_have_the_whole_level_on_each_side() -> None:
    control, treatment = arms()
    parts = moments_of(control), moments_of(treatment)
    bounds = compare(*parts, numerator="clicks", alpha=0.05, one_sided=True)
    both = compare(*parts, numerator="clicks", alpha=0.1)
    assert (bounds.low, bounds.high) == (exactly(both.low), exactly(both.high))


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8))
def test_corrections_equal_their_definitions(values: list[float]) -> None:
    order, size = np.argsort(values, kind="stable"), len(values)
    holm, largest = [0.0] * size, 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (size - rank) * values[index]))
        holm[index] = largest
    assert corrected(values, "holm") == pytest.approx(holm, rel=1e-12)
    assert corrected(values, "bh") == pytest.approx(stats.false_discovery_control(values).tolist(), rel=1e-12)


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(UnimixerError, match="correction='none' is not one of holm, bh"):
        corrected([0.1], "none")
    assert corrected([], "holm") == []


def test_a_standardized_difference_worked_out_by_hand() -> None:
    low, high = moments_of({"x": [0.0, 2.0]}), moments_of({"x": [1.0, 5.0]})
    assert standardized_difference(low, high, "x") == pytest.approx(2 / np.sqrt((2 + 8) / 2))
