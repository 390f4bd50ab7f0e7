"""Every entry runs at a tiny size, agrees with its reference, and counts its work right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.suite.base import Benchmark, Case, setting
from benchmarks.suite.registry import NAMES, benchmark, select
from benchmarks.suite.results import read_rows
from benchmarks.suite.run import run_benchmarks, select_cases
from unimixer.errors import UnimixerError
from unimixer.profiling.flops import count_flops

TINY: Mapping[str, Case] = {
    "mixing": Case.of(L=24, b=3, batch=5),
    "sinkhorn": Case.of(passes="both", N=5, batch=2),
    "sinkhorn-cached": Case.of(L=12, b=2),
    "per-token-ffn": Case.of(ffn="swiglu", T=3, D=5, H=7, batch=4),
    **{name: Case.of(D=8, T=4, expansion=2, batch=3) for name in NAMES if name.startswith("backbone-")},
    "embedding-update": Case.of(rows=50, dim=3, fields=2, batch=7),
    "history-mean": Case.of(length=3, rows=20, dim=2, batch=4),
    "loader": Case.of(batch=64, history=5, rows=2000),
    "metrics": Case.of(rows=2000),
    "training-step": Case.of(model="unimixer-lite", batch=64, history=5),
    "training-parts": Case.of(part="optimizers", model="unimixer-lite", batch=64, history=5),
    "prediction": Case.of(model="rankmixer", rows=130),
}


@pytest.fixture(autouse=True)
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("training", "prediction"):
        monkeypatch.setattr(f"benchmarks.suite.entries.{module}.ROWS", 2000)
    monkeypatch.setattr("benchmarks.suite.timing.COPY_NUMBERS", 1024)
    monkeypatch.setattr("benchmarks.suite.timing.sgemm_size", lambda device: 64)


def tiny(name: str, *, compiled: bool = False) -> Benchmark:
    entry = benchmark(name)
    wanted = {key: value for key, value in entry.implementations.items() if compiled or key != "compiled"}
    return replace(entry, cases=[TINY[name]], implementations=wanted)


@pytest.mark.parametrize("name", list(TINY))
def test_every_entry_runs_and_agrees(name: str, tmp_path: Path) -> None:
    entry = tiny(name)
    rows = run_benchmarks([entry], cases="all", repeats=1, out=tmp_path)
    assert [(row.implementation, row.status) for row in rows] == [(key, "ok") for key in entry.implementations]
    assert all(row.seconds and row.seconds > 0 and row.repeats == 1 for row in rows)
    assert [row.subject for row in read_rows(tmp_path / f"{name}.csv")] == [row.subject for row in rows]
    work = entry.work(entry.cases[0])
    for row in rows:
        assert (row.sgemm_share is None) == (not work.flops)
        assert (row.products_share is None) == (not work.products)
        assert (row.bandwidth_share is None) == (not work.num_bytes)
        assert (row.rows_per_second is None) == (not work.rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
def test_the_compiled_form_passes_the_gate() -> None:
    rows = run_benchmarks([tiny("per-token-ffn", compiled=True)], cases="all", repeats=1)
    assert [row.status for row in rows if row.implementation == "compiled"] == ["ok"]


@pytest.mark.parametrize("part", ["embedding", "dense", "loader"])
def test_every_part_of_a_step_runs(part: str) -> None:
    entry = replace(tiny("training-parts"), cases=[Case.of(part=part, model="unimixer-lite", batch=64, history=5)])
    assert [row.status for row in run_benchmarks([entry], repeats=1)] == ["ok"]


@pytest.mark.parametrize("name", ["rankmixer-swiglu", "hetero-attention", "tokenmixer-large"])
def test_the_bare_products_of_a_backbone_are_those_of_its_ffns(name: str, tmp_path: Path) -> None:
    entry, case = benchmark(f"backbone-{name}"), TINY[f"backbone-{name}"]
    with setting(entry, case, torch.device("cpu")) as place:
        model, _ = entry.inputs(case, place)
    products = sum(2 * g * r * i * c for g, r, i, c in entry.work(case).products) / case["batch"]
    if name == "hetero-attention":  # has products around its mixing too
        assert 0 < products < count_flops(model)
    else:
        assert products == count_flops(model)
    weights = sum(p.numel() for p in model.parameters())
    assert entry.work(case).flops == 6 * weights * case["batch"]


def test_names_and_entries_agree() -> None:
    entries = select(["all"])
    assert [entry.name for entry in entries] == list(NAMES)
    for entry in entries:
        cases = [case.name for case in entry.cases]
        assert len(set(cases)) == len(cases), entry.name
        assert any(case.small for case in entry.cases)
        assert entry.measures
        assert "\n" not in entry.measures


def test_patterns_choose_benchmarks_and_cases() -> None:
    chosen = [entry.name for entry in select(["backbone-*", "mixing", "mixing"])]
    assert chosen == [*(name for name in NAMES if name.startswith("backbone-")), "mixing"]
    mixing = benchmark("mixing")
    assert [case.name for case in select_cases(mixing, "*b=16*")] == ["L=1024 b=16 batch=512"]
    assert len(select_cases(mixing, "small")) < len(select_cases(mixing, "all")) == len(mixing.cases)
    with pytest.raises(UnimixerError, match=r"unknown cases of benchmark 'mixing': 'smal'; did you mean 'small'\?"):
        select_cases(mixing, "smal")
    with pytest.raises(UnimixerError, match=r"unknown benchmark 'mixin'; did you mean 'mixing'\?"):
        select(["mixin"])


def test_a_benchmark_of_another_device_is_skipped_and_a_case_that_cannot_be_built_says_why() -> None:
    entry = replace(tiny("metrics"), devices=("cuda",))
    assert {row.status for row in run_benchmarks([entry], repeats=1)} == {"skipped: measures cuda only"}
    entry = replace(tiny("mixing"), cases=[Case.of(L=7, b=2, batch=3)])
    (status,) = {row.status for row in run_benchmarks([entry], repeats=1)}
    assert status == "failed: L=7 must be divisible by b=2; the nearest valid L is 6 or 8"


def test_threads_are_those_asked_for_and_then_as_before() -> None:
    before = torch.get_num_threads()
    (row, *_) = run_benchmarks([tiny("mixing")], repeats=1, threads=2)
    assert row.threads == 2
    assert torch.get_num_threads() == before
    for wrong in ({"threads": 0}, {"repeats": 0}):
        with pytest.raises(UnimixerError, match=r"=0 must be greater than 0"):
            run_benchmarks([tiny("mixing")], **wrong)  # type: ignore[arg-type]
