"""A whole study killed in the middle: the second call computes only what is missing."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_runner import Done, runner
from own_process import OwnProcess, unimixer
from small import small_cases, small_values

from unimixer.cli import main
from unimixer.experiments import load_rows, run_jobs
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.plan import Study, read_plan

RECIPE = {"training.epochs": 6, "training.eval_interval": 1000, "training.checkpoint_interval": 5}


@pytest.fixture
def study(toy_folder: Path, tmp_path: Path) -> Path:
    """A study file of three rows that take a second or two each."""
    path = tmp_path / "study file.yaml"
    values = small_values(toy_folder, models=["rankmixer"], seeds=3, recipe=RECIPE)
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(main, capsys)


def started(study: Path, folder: Path) -> OwnProcess:
    """The study as a process, in the middle of its second row."""
    process = unimixer("compare", study, "--out", folder, "--jobs", 1)
    deadline = time.monotonic() + 200
    while not (any((folder / "rows").glob("*.json")) and any((folder / "runs").glob("*-s1-*/checkpoints/step-*"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def assert_finished_by_the_missing_rows_alone(folder: Path, cli: Callable[..., Done]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").glob("*.json")}
    assert 1 <= len(before) <= 2
    begun = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*-s1-*/config.yaml")}
    done = cli("compare", folder, "--json", "--jobs", 1)
    assert done.code == 0, done.err
    values = done.json
    assert (values["existing"], values["computed"], values["failed"]) == (len(before), 3 - len(before), {})
    assert Path(values["report"]).exists()
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").glob("*.json")}
    assert len(after) == 3
    assert {name: after[name] for name in before} == before
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "runs").glob("*-s1-*/config.yaml")} == begun


def test_a_study_killed_in_the_middle_computes_only_what_is_missing(
    study: Path, toy_folder: Path, tmp_path: Path, cli: Callable[..., Done]
) -> None:
    folder = tmp_path / "out"
    process = started(study, folder)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert_finished_by_the_missing_rows_alone(folder, cli)
    # the interrupted row has the very numbers of one that was never interrupted
    (case,) = small_cases(toy_folder, models=["rankmixer"], recipe=RECIPE)
    job = case.job(1, Rates(1e-3, 1e-3))
    (whole,) = run_jobs([job], tmp_path / "whole").computed
    (row,) = load_rows(folder).filter(seed=1).to_dicts()
    metrics = [name for name in whole if name.startswith(("validation_", "test_"))]
    assert len(metrics) == 16
    assert {name: row[name] for name in metrics} == {name: whole[name] for name in metrics}


def test_a_request_to_stop_prints_the_command_that_finishes_the_study(
    study: Path, tmp_path: Path, cli: Callable[..., Done]
) -> None:
    folder = tmp_path / "an out"
    process = started(study, folder)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    last = err.splitlines()[-1]
    assert last.startswith("error: stopped with ")
    how = shlex.split(last.partition("continue with: ")[2])
    assert how == ["unimixer", "compare", str(folder), "--jobs", "1", "--threads", "1"]
    assert read_plan(folder, Study).seeds == 3
    assert_finished_by_the_missing_rows_alone(folder, cli)
