"""Advice from laws and costs that are planted, so that the best size is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from unimixer.analysis.bootstrap import BootstrapOptions
from unimixer.analysis.points import read_points
from unimixer.analysis.power_law import IrreducibleError, Law, fit_law
from unimixer.analysis.sizing import Advice, Budget, Costs, Curve, advise, costs_of
from unimixer.errors import UnimixerError

SIZES = [1e6, 4e6, 16e6, 64e6]
LATENCY = Curve(SIZES, [n**0.5 / 1e3 for n in SIZES])  # 1 ms at 1M, 8 ms at 64M
FLOPS = Curve(SIZES, [2 * n for n in SIZES])
COSTS = Costs(FLOPS, LATENCY, Curve(SIZES, [n / 1e6 for n in SIZES]))


def law_of(b: float = 0.2, a: float = 1.0) -> Law:
    errors = [0.2 + a * n**-b for n in SIZES for _ in range(2)]
    return fit_law(
        [n for n in SIZES for _ in range(2)],
        errors,
        form="error",
        irreducible_error=IrreducibleError.known(0.2),
        options=BootstrapOptions(50),
    )


def one(budget: Budget, costs: Costs = COSTS, law: Law | None = None) -> Advice:
    (advice,) = advise({"m": law or law_of()}, {"m": costs}, budget)
    return advice


def test_the_largest_size_within_the_latency_is_bought() -> None:
    advice = one(Budget(latency_ms=4.0))
    assert advice.params == pytest.approx(16e6, rel=0.02)
    assert advice.limit == "latency"
    assert advice.auc == pytest.approx(0.8 - (16e6) ** -0.2, abs=2e-3)
    assert advice.costs["latency_ms"] <= 4.0
    assert advice.costs["flops"] == pytest.approx(2 * (advice.params or 0))
    assert advice.beyond == pytest.approx(0.25, rel=0.02)


def test_requests_a_second_keep_cores_busy() -> None:
    advice = one(Budget(qps=1000, cores=4, utilisation=0.5))  # 1000 q/s on 4 half-used cores: 2 ms each
    assert advice.params == pytest.approx(4e6, rel=0.02)
    assert advice.limit == "requests a second"
    assert advice.costs["cores"] == pytest.approx(4.0, rel=0.02)
    assert one(Budget(qps=1000, cores=4, threads=2, utilisation=0.5)).params == pytest.approx(1e6, rel=0.02)


def test_training_time_and_parameters_limit_too_and_the_tightest_counts() -> None:
    assert one(Budget(training_hours=10)).params == pytest.approx(10e6, rel=0.02)
    assert one(Budget(params=3e6)).limit == "parameters"
    advice = one(Budget(latency_ms=4.0, training_hours=10, params=30e6))
    assert (advice.limit, advice.params) == ("training time", pytest.approx(10e6, rel=0.02))


def test_a_size_beyond_the_trained_ones_is_marked_and_has_an_end() -> None:
    advice = one(Budget(latency_ms=1000.0))
    assert advice.params == pytest.approx(256e6)
    assert advice.limit == "4 times the largest size trained"
    assert advice.beyond == pytest.approx(4.0)
    (far,) = advise({"m": law_of()}, {"m": COSTS}, Budget(latency_ms=1000.0), beyond=1.0)
    assert far.params == pytest.approx(64e6)


def test_a_model_that_is_too_slow_at_every_size_is_not_bought_and_stands_last() -> None:
    slow = Costs(FLOPS, Curve(SIZES, [100.0] * 4))
    advice = advise({"slow": law_of(b=0.3), "quick": law_of()}, {"slow": slow, "quick": COSTS}, Budget(latency_ms=4.0))
    assert [entry.model for entry in advice] == ["quick", "slow"]
    assert (advice[1].params, advice[1].limit, advice[1].auc) == (None, "latency", None)


def test_of_two_models_the_better_within_the_budget_comes_first() -> None:
    # the steeper law wins where it is affordable, the flatter one where only its cost allows a size
    laws = {"steep": law_of(b=0.25), "cheap": law_of(b=0.24)}
    dear = Costs(FLOPS, Curve(SIZES, [4 * n**0.5 / 1e3 for n in SIZES]))
    assert advise(laws, {"steep": COSTS, "cheap": COSTS}, Budget(latency_ms=4.5))[0].model == "steep"
    assert advise(laws, {"steep": dear, "cheap": COSTS}, Budget(latency_ms=4.5))[0].model == "cheap"


def test_returns_are_the_derivatives_of_the_law() -> None:
    law = law_of(b=0.2)
    advice = one(Budget(latency_ms=4.0), law=law)
    assert advice.params is not None
    error = advice.params**-0.2
    slope = 0.2 * error  # dA / dlog N
    assert advice.returns["doubling params"] == pytest.approx(error * (1 - 2**-0.2), rel=0.02)
    assert advice.returns["per million params"] == pytest.approx(slope / advice.params * 1e6, rel=0.02)
    assert advice.returns["per MFLOP"] == pytest.approx(slope / (2 * advice.params) * 1e6, rel=0.02)
    # latency goes as the root of the size: twice the time buys four times the parameters
    assert advice.returns["per ms"] == pytest.approx(slope * 2 / 4.0, rel=0.02)
    assert advice.returns["doubling latency_ms"] == pytest.approx(error * (1 - 4**-0.2), rel=0.02)
    assert advice.returns["doubling flops"] == pytest.approx(advice.returns["doubling params"], rel=1e-6)


def test_a_gain_counts_from_its_base() -> None:
    law = fit_law(SIZES, [0.003 * (n / 1e6) ** 0.14 for n in SIZES], form="gain", options=BootstrapOptions(50))
    (advice,) = advise({"m": law}, {"m": COSTS}, Budget(params=8e6), base_auc=0.74)
    assert advice.auc == pytest.approx(0.74 + 0.003 * 8**0.14, abs=1e-5)
    assert advice.interval is not None
    assert advice.interval[0] <= advice.auc <= advice.interval[1]


def test_the_interval_of_an_error_is_turned_round() -> None:
    rng = np.random.default_rng(1)
    sizes = np.repeat(SIZES, 3)
    law = fit_law(
        sizes,
        0.2 + sizes**-0.2 * np.exp(0.05 * rng.normal(size=12)),
        form="error",
        irreducible_error=IrreducibleError.known(0.2),
    )
    advice = one(Budget(params=20e6), law=law)
    assert advice.interval is not None
    assert advice.auc is not None
    assert advice.interval[0] < advice.auc < advice.interval[1] < 0.8


def test_curves_are_straight_in_logarithms_and_go_on_beyond_their_ends() -> None:
    curve = Curve((4.0, 1.0, 16.0), (2.0, 1.0, 8.0))
    assert curve.at([1, 2, 4, 8, 16, 32]) == pytest.approx([1, math.sqrt(2), 2, 4, 8, 16])
    assert curve.at([0.25])[0] == pytest.approx(0.5)
    assert Curve((2.0,), (3.0,)).at([4.0])[0] == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "advice needs a budget: --latency-ms, --qps, --train-hours or --max-params"),
        ({"latency_ms": -1.0}, "latency_ms=-1.0 must be greater than 0"),
        ({"qps": 5.0, "utilisation": 1.5}, "utilisation=1.5 must be at most 1"),
    ],
)
def test_a_budget_that_is_none_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        Budget(**values)  # type: ignore[arg-type]


def test_what_is_not_known_is_asked_for() -> None:
    with pytest.raises(UnimixerError, match="m: its latency is not known; give points of a sweep's folder"):
        one(Budget(latency_ms=4.0), Costs())
    with pytest.raises(UnimixerError, match="m: its training time is not known"):
        one(Budget(training_hours=4.0), Costs())
    assert one(Budget(params=8e6), Costs()).returns.keys() == {"doubling params", "per million params"}


def test_a_file_of_points_brings_its_own_costs(tmp_path: Path) -> None:
    lines = ["model,params,flops,metric,seed,latency_ms,auc,seconds"]
    lines += [f"m,{int(n)},{int(2 * n)},{0.7 + n / 1e10},0,{n**0.5 / 1e3},0.7,{n / 1e6 * 3600}" for n in SIZES]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    costs = costs_of(read_points(path), path, {})["m"]
    assert costs.flops is not None
    assert costs.latency_ms is not None
    assert costs.training_hours is not None
    assert costs.flops.at([8e6])[0] == pytest.approx(16e6)
    assert costs.latency_ms.at([16e6])[0] == pytest.approx(4.0)
    assert costs.training_hours.at([4e6])[0] == pytest.approx(4.0)
    bare = tmp_path / "bare.csv"
    bare.write_text("model,params,metric\nm,1000000,0.001\nm,4000000,0.002\n", encoding="utf-8")
    assert costs_of(read_points(bare), bare, {}) == {"m": Costs()}
