"""Clock, meter, running AUC, and what a run reports with and without TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.metrics import auc
from unimixer.training import tracker as tracking
from unimixer.training.run import RunFolder
from unimixer.training.tracker import Clock, Meter, RunningAUC, Tracker


class Time:
    """A clock that goes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(time, "perf_counter", fake)
    return fake


def test_the_clock_goes_on_from_before_and_stands_still_when_stopped(hand: Time) -> None:
    clock = Clock(seconds=5.0)
    hand.now += 2
    with clock.stopped():
        hand.now += 30
    hand.now += 1
    assert clock.seconds == pytest.approx(8.0)


def test_the_meter_reports_the_mean_loss_and_the_speed_since_the_last_report(hand: Time) -> None:
    clock = Clock()
    meter = Meter(clock)
    for loss in (1.0, 2.0):
        hand.now += 2
        meter.add(100, torch.tensor(loss), waited=0.5)
    assert meter.report() == {"loss": 1.5, "samples_per_second": 50.0, "data_wait": 0.25}
    with clock.stopped():
        hand.now += 50
    hand.now += 1
    meter.add(10, torch.tensor(4.0), waited=0.0)
    assert meter.report() == {"loss": 4.0, "samples_per_second": 10.0, "data_wait": 0.0}


def test_the_running_auc_is_that_of_the_last_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WINDOW_ROWS", 6)
    generator = torch.Generator().manual_seed(0)
    running, logits, labels = RunningAUC(), [], []
    for _ in range(5):
        logits.append(torch.randn(3, 2, generator=generator))
        labels.append(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
        running.add(logits[-1], labels[-1])
    expected = auc(torch.cat(logits[-2:])[:, 0].numpy(), torch.cat(labels[-2:])[:, 0].numpy())
    assert running.value() == expected


def test_there_is_no_auc_of_one_class_or_of_scores_that_are_not_finite() -> None:
    one_class = RunningAUC()
    one_class.add(torch.zeros(3, 1), torch.ones(3, 1))
    assert one_class.value() is None
    broken = RunningAUC()
    broken.add(torch.full((2, 1), float("nan")), torch.tensor([[0.0], [1.0]]))
    assert broken.value() is None


def report(run: RunFolder) -> None:
    tracker = Tracker(run, lambda done, note="": None, total_steps=9)
    tracker.steps({"step": 3, "loss": 0.5, "auc": None, "samples_per_second": 10.0, "data_wait": 0.1})
    tracker.close()


def test_a_report_is_a_line_of_the_metrics_file(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe(toy_dataset.folder), toy_dataset)
    report(run)
    (line,) = run.history()
    assert (line["kind"], line["step"], line["loss"], line["auc"]) == ("train", 3, 0.5, None)


def test_tensorboard_gets_the_same_numbers(toy_dataset: Dataset, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = RunFolder.create(tmp_path / "run", tiny_recipe(toy_dataset.folder), toy_dataset)
    report(run)
    events = accumulator.EventAccumulator(str(run.folder)).Reload()
    (loss,) = events.Scalars("train/loss")
    assert (loss.step, loss.value) == (3, np.float32(0.5))


def test_tensorboard_is_optional(toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = RunFolder.create(tmp_path / "run", tiny_recipe(toy_dataset.folder), toy_dataset)
    report(run)
    assert len(run.history()) == 1
    assert not list(run.folder.glob("events.*"))


def values(step: int, auc: float | None = None) -> dict[str, Any]:
    return {"step": step, "loss": 0.5, "auc": auc, "samples_per_second": 12_345.6, "data_wait": 0.125}


def test_the_first_the_last_and_a_line_every_few_seconds_are_said(
    toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tracker = Tracker(
        RunFolder.create(tmp_path / "run", tiny_recipe(toy_dataset.folder), toy_dataset),
        lambda done, note="": None,
        total_steps=1_000,
    )
    for step in range(20, 1_001, 20):
        tracker.steps(values(step, 0.75), seconds_left=300.0)
        now[0] += 0.5
    tracker.close()
    lines = capsys.readouterr().err.splitlines()
    shown = "loss 0.5000  AUC 0.7500  12,346 samples/s, 12% waiting for data, about 5 min left"
    assert lines == [f"step {step:>7,} of 1,000  {shown}" for step in (*range(20, 1_000, 200), 1_000)]


def test_of_several_processes_one_speaks(
    toy_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe(toy_dataset.folder), toy_dataset)
    tracker = Tracker(run, lambda done, note="": None, total_steps=9, silent=True)
    tracker.steps(values(9))
    tracker.close()
    assert capsys.readouterr().err == ""
    assert run.history() == []
