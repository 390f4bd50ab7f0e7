"""Sequential intervals: the formula of the paper, the level over all looks, and the split."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unimixer.abtest.analysis.sequential import Sequential, split_p_value
from unimixer.errors import UnimixerError


def test_the_boundary_is_that_of_the_paper() -> None:
    at, units, alpha, deviation = Sequential(planned=500), 700, 0.05, 1.7
    rho = math.sqrt(at.tuning)
    paper = deviation * math.sqrt(
        2 * (units * rho**2 + 1) / (units**2 * rho**2) * math.log(math.sqrt(units * rho**2 + 1) / alpha)
    )
    assert at.multiplier(units) * deviation / math.sqrt(units) == pytest.approx(paper, rel=1e-12)


def test_the_interval_is_narrowest_where_it_is_planned() -> None:
    width = {planned: Sequential(planned).multiplier(1_000) for planned in (200, 1_000, 5_000)}
    assert min(width, key=width.__getitem__) == 1_000


@pytest.mark.parametrize("statistic", [2.5, 3.5, 6.0])
def test_the_p_value_is_the_level_whose_interval_ends_at_zero(statistic: float) -> None:
    at = Sequential(planned=1_000)
    p = at.p_value(statistic, 800)
    assert at.multiplier(800, p) == pytest.approx(statistic)
    assert at.p_value(0.0, 800) == 1.0


def test_looking_at_every_unit_errs_at_most_at_the_level() -> None:
    rng = np.random.default_rng(0)
    values, count = rng.normal(size=(1_000, 2_000)), np.arange(1, 2_001)
    statistics = np.abs(values.cumsum(axis=1)) / np.sqrt(count)
    at = Sequential(planned=1_000)
    boundary = np.array([at.multiplier(int(n)) for n in count])
    sequential = (statistics > boundary).any(axis=1).sum()
    assert sequential <= stats.binom.ppf(0.999, 1_000, 0.05)
    assert (statistics > 1.96)[:, 99:].any(axis=1).mean() > 0.3  # the fixed interval under the same looks


def test_a_plan_without_units_or_a_level_is_refused() -> None:
    with pytest.raises(UnimixerError, match="planned=0 must be greater than 0"):
        Sequential(planned=0)
    with pytest.raises(UnimixerError, match=r"alpha=0\.7 must lie between 0 and 0\.5"):
        Sequential(planned=10, level=0.7)


def test_a_split_of_two_arms_is_the_ratio_of_two_beta_functions() -> None:
    counts, prior = (5_200, 4_800), 5_000.0
    evidence = stats.betabinom(10_000, prior, prior).pmf(5_200) / stats.binom(10_000, 0.5).pmf(5_200)
    assert split_p_value(counts, (0.5, 0.5)) == pytest.approx(min(1.0, 1 / evidence), rel=1e-6)


def test_a_sound_split_passes_at_every_look_and_a_skewed_one_does_not() -> None:
    rng = np.random.default_rng(0)
    looks = rng.multinomial(500, (0.8, 0.2), size=(400, 30)).cumsum(axis=1)
    failed = [any(split_p_value(counts.tolist(), (0.8, 0.2)) < 0.001 for counts in run) for run in looks]
    assert sum(failed) <= 2
    assert split_p_value((8_400, 1_600), (0.8, 0.2)) < 1e-6


@pytest.mark.parametrize("units", [100, 1_000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_beyond_a_one_sided_bound_the_mixture_over_effects_of_one_sign_has_its_level(units: int, alpha: float) -> None:
    at = Sequential(1_000)
    bound, grown = at.multiplier(units, alpha, one_sided=True), 1 + units * at.tuning
    scaled = bound * math.sqrt(1 - 1 / grown)
    evidence = 2 / math.sqrt(grown) * math.exp(scaled**2 / 2) * stats.norm.cdf(scaled)
    assert 1 / alpha <= evidence < 1.5 / alpha
    assert bound < at.multiplier(units, alpha)
