"""The rule that carries learning rates over: its arithmetic, and the experiment that puts it to the test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.errors import UnimixerError
from unimixer.experiments.lr_search import (
    LRTrial,
    Rates,
    Transfer,
    best_rate,
    chosen_rates,
    losses,
    power_between,
    rounded,
)
from unimixer.experiments.results import result_columns

GRID = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]


def hill(best: float, top: float = 0.75) -> Callable[[float], float]:
    """A metric that is a parabola in the logarithm of the rate."""
    return lambda rate: top - 0.01 * math.log(rate / best) ** 2


def trial(params: int, width: float, best: float, model: str = "m") -> LRTrial:
    return LRTrial(model, params, width, {rate: hill(best)(rate) for rate in GRID})


def test_rates_follow_the_power_of_the_width() -> None:
    rule = Transfer(rate=2e-3, width=32.0, power=0.5)
    assert [rule.at(32.0), rule.at(128.0), rule.at(512.0)] == [2e-3, 1e-3, 5e-4]
    assert Transfer(2e-3, 32.0, 0.0).at(1024.0) == 2e-3
    assert Transfer(2e-3, 32.0, 1.0).at(64.0) == 1e-3
    assert Transfer(1e-3, 30.0).at(70.0) == rounded(1e-3 * (30 / 70) ** 0.75) == 0.00053


@given(st.floats(0.0, 1.0), st.floats(8.0, 64.0), st.floats(1.1, 64.0), st.floats(1e-4, 1e-2))
def test_two_sizes_give_back_the_power_that_made_them(power: float, width: float, times: float, rate: float) -> None:
    other = rate * times**-power
    assert power_between((width, rate), (width * times, other)) == pytest.approx(power, abs=1e-6)


def test_the_power_stays_between_constant_and_inverse() -> None:
    assert power_between((10.0, 1e-3), (40.0, 4e-3)) == 0.0
    assert power_between((10.0, 1e-3), (40.0, 1e-5)) == 1.0
    with pytest.raises(UnimixerError, match="both sizes have the width 10"):
        power_between((10.0, 1e-3), (10.0, 2e-3))


def test_a_metric_that_was_asked_for_chooses_the_rate() -> None:
    def row(rate: float, auc: float, ndcg: float) -> dict[str, Any]:
        metrics = {"click": {"auc": auc, "ndcg@10": ndcg}}
        found = result_columns({"validation": metrics, "test": metrics})
        return {"dense_lr": rate, "sparse_lr": 1e-2, "seed": 0, "status": "ok", "tasks": '["click"]', **found}

    rows, grid = [row(1e-3, 0.7, 0.5), row(2e-3, 0.6, 0.9)], [Rates(1e-3, 1e-2), Rates(2e-3, 1e-2)]
    assert [chosen_rates(rows, grid, monitor) for monitor in (None, "click.ndcg@10")] == grid


@pytest.mark.parametrize("best", [8e-4, 1e-3, 1.7e-3, 3.1e-3, 5e-3])
def test_the_best_rate_is_found_between_those_of_the_grid(best: float) -> None:
    found, edge = best_rate({rate: hill(best)(rate) for rate in GRID})
    assert found == pytest.approx(best, rel=5e-3)
    assert not edge


def test_an_end_of_the_grid_is_taken_as_it_is_and_said() -> None:
    assert best_rate({rate: hill(1e-4)(rate) for rate in GRID}) == (5e-4, True)
    assert best_rate({rate: hill(1e-1)(rate) for rate in GRID}) == (8e-3, True)
    assert best_rate({1e-3: 0.7}) == (1e-3, False)
    assert best_rate({1e-3: 0.7, 2e-3: 0.7, 4e-3: 0.7}) == (1e-3, True)
    with pytest.raises(UnimixerError, match="every run of the search failed"):
        best_rate({})


def test_the_experiment_says_what_each_rule_loses() -> None:
    planted = 0.5
    trials = [trial(int(1e5 * times**2), 16.0 * times, 4e-3 * times**-planted) for times in (1, 2, 4)]
    for line, times in zip(losses(trials), (2, 4), strict=True):
        assert line["power"] == pytest.approx(planted, abs=0.02)
        assert line["best rate"] == pytest.approx(4e-3 * times**-planted, rel=5e-3)
        assert line["at the grid's end"] == "no"
        assert line["rate at p=1"] == pytest.approx(4e-3 / times, rel=5e-3)
        wrong = 0.01 * math.log(times**planted) ** 2  # half a power too little, half a power too much
        assert line["loss at p=0.5"] == pytest.approx(0.0, abs=1e-6)
        assert line["loss at p=0"] == pytest.approx(wrong, rel=0.02)
        assert line["loss at p=1"] == pytest.approx(wrong, rel=0.02)


def test_a_rule_that_leads_out_of_the_grid_has_no_loss_to_show() -> None:
    trials = [trial(10_000, 16.0, 1e-3), trial(1_000_000, 160.0, 1e-3)]
    (line,) = losses(trials)
    assert line["rate at p=1"] == 1e-4
    assert line["loss at p=1"] is None
    assert line["loss at p=0"] == pytest.approx(0.0, abs=1e-6)


def test_between_the_rates_of_a_grid_a_trial_is_a_parabola() -> None:
    one = trial(1, 16.0, 1.5e-3)
    for rate in (5e-4, 7e-4, 1.5e-3, 2.9e-3, 7e-3, 8e-3):
        assert one.at(rate) == pytest.approx(hill(1.5e-3)(rate), abs=1e-9)
    assert one.at(4e-4) is None
    assert LRTrial("m", 1, 16.0, {1e-3: 0.7, 2e-3: 0.7}).at(1.5e-3) is None
