"""Rounds, ratios and ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.suite.base import Product, Work
from benchmarks.suite.run import measured
from benchmarks.suite.timing import Ceiling, Samples, bare_products, ceilings, interleave, peak_megabytes, spread

CPU = torch.device("cpu")


def noting(name: str, seen: list[str]) -> Callable[[], None]:
    return lambda: seen.append(name)


def test_every_run_is_followed_by_the_ceilings() -> None:
    seen: list[str] = []
    runs = {name: noting(name, seen) for name in "AB"}
    bounds = {name: noting(name, seen) for name in "xy"}
    samples = interleave(runs, bounds, repeats=3, device=CPU, shortest=0.0)
    assert "".join(seen) == "AABBxxyy" + 3 * "AxyBxy"  # two of each to find out how long they take
    assert all(len(values) == 3 for values in (*samples.runs.values(), *samples.ceilings.values()))
    assert samples.ceilings.keys() == {(run, bound) for run in "AB" for bound in "xy"}


def test_a_slow_case_stops_after_three_rounds() -> None:
    samples = interleave({"slow": lambda: time.sleep(0.01)}, {}, repeats=50, device=CPU, longest=0.0)
    assert len(samples.runs["slow"]) == 3


def test_a_ratio_is_that_of_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def taking(seconds: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + seconds)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    samples = interleave({"run": taking(0.02)}, {"bound": taking(0.005)}, repeats=3, device=CPU)
    assert list(samples.ratios("run", "bound")) == pytest.approx([0.25] * 3)


def test_shares_compare_rates_round_by_round() -> None:
    samples = Samples({"reference": [8.0, 4.0, 6.0], "fast": [2.0, 4.0, 1.0]}, {("fast", "sgemm"): [4.0, 8.0, 3.0]})
    bounds = {"sgemm": Ceiling(lambda: None, amount=1000e9, of_case=100e9)}
    found = measured("fast", "reference", samples, Work(flops=100e9, rows=10), bounds)
    assert (found["repeats"], found["seconds"], found["rows_per_second"], found["gflops"]) == (3, 2.0, 5.0, 50.0)
    assert found["speedup"] == 4.0  # median of 4, 1 and 6
    assert found["sgemm_share"] == pytest.approx(0.2)  # 100 GFLOP in 2 s beside 1000 GFLOP in 4 s
    assert found["sgemm_share_spread"] == pytest.approx(0.05)
    assert found["sgemm_gflops"] == 250.0


def test_spread_is_the_distance_of_the_quartiles() -> None:
    assert spread([3.0, 1.0, 2.0, 5.0, 4.0]) == 2.0
    assert spread([1.0]) == 0.0


def test_ceilings_follow_from_the_work() -> None:
    assert ceilings(Work(rows=5), CPU) == {}
    found = ceilings(Work(flops=100.0, num_bytes=8.0, products=(Product(2, 3, 4, 5),)), CPU)
    assert {name: bound.of_case for name, bound in found.items()} == {"sgemm": 100.0, "products": 1.0, "bandwidth": 8.0}
    assert found["sgemm"].amount >= 2 * 1024**3
    for bound in found.values():
        bound.run()


def test_bare_products_are_those_of_both_passes() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    run = bare_products((Product(2, 3, 4, 5), Product(1, 7, 4, 2)), CPU)
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == 3 * 2 * (2 * 3 * 4 * 5 + 7 * 4 * 2)


def test_peak_memory_is_what_one_run_takes() -> None:
    found = peak_megabytes(lambda: torch.ones(16 * 2**20).sum(), CPU)
    if found is None:
        pytest.skip("the system does not count resident memory")
    assert 60 < found < 100
