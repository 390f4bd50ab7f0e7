"""Two exponents compared: p is small where they differ, and rarely where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from unimixer.analysis.bootstrap import BootstrapOptions
from unimixer.analysis.power_law import Law, fit_law
from unimixer.analysis.scaling_laws import FLATTER, INCONCLUSIVE, STEEPER, compare_exponents


def law(b: float, rng: np.random.Generator, *, seeds: int = 2, deviation: float = 0.02, replicates: int = 200) -> Law:
    sizes = np.repeat(np.geomspace(2.5e5, 16e6, 6), seeds)
    metric = 1e-3 * sizes**b * np.exp(deviation * rng.normal(size=len(sizes)))
    return fit_law(sizes, metric, options=BootstrapOptions(replicates, rng))


def test_exponents_that_differ_get_a_word_and_pairs_are_corrected_together() -> None:
    rng = np.random.default_rng(0)
    laws = {
        "a": law(0.10, rng, replicates=2000),
        "b": law(0.102, rng, replicates=2000),
        "c": law(0.3, rng, replicates=2000),
    }
    pairs = {(pair.model, pair.other): pair for pair in compare_exponents(laws)}
    assert pairs["a", "c"].conclusion == FLATTER
    assert pairs["a", "b"].conclusion == INCONCLUSIVE
    steep = compare_exponents({"c": laws["c"], "a": laws["a"]})[0]
    assert steep.conclusion == STEEPER
    assert steep.holm == steep.p == pytest.approx(2 / 2001)
    assert pairs["a", "c"].holm == pytest.approx(3 * 2 / 2001)
    assert steep.low is not None
    assert 0 < steep.low < 0.2 < (steep.high or 0)


def test_equal_exponents_are_called_different_about_once_in_twenty() -> None:
    wrong = 0
    for number in range(150):
        rng = np.random.default_rng(number)
        p = compare_exponents({"a": law(0.12, rng, replicates=150), "b": law(0.12, rng, replicates=150)})[0].p
        assert p is not None
        wrong += p < 0.05
    assert 1 <= wrong <= 14


def test_a_model_without_an_interval_is_not_compared() -> None:
    rng = np.random.default_rng(1)
    two = fit_law([1e6, 1e8], [0.001, 0.002])
    pairs = compare_exponents({"a": law(0.1, rng), "two": two, "c": law(0.1, rng)})
    assert [pair.p is None for pair in pairs] == [True, False, True]
    assert pairs[1].holm == pairs[1].p
    assert pairs[0].conclusion == INCONCLUSIVE
