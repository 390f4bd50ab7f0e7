"""What goes wrong while rows are computed: failing rows, killed children, requests to stop, two calls at once."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import small_cases

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.experiments import run_jobs
from unimixer.experiments.executor import Machine, Schedule, study_lock
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.progress_view import position


def test_a_failing_row_is_recorded_the_others_go_on_and_it_is_tried_again(toy_folder: Path, tmp_path: Path) -> None:
    good, bad = (case.job(0, Rates(1e-3, 1e-3)) for case in small_cases(toy_folder))
    broken = bad.recipe.model_copy(update={"training": bad.recipe.training.model_copy(update={"monitor": "no.auc"})})
    broken_bad = replace(bad, recipe=broken)
    outcome = run_jobs([broken_bad, good], tmp_path)
    assert [row["key"] for row in outcome.computed] == [good.key]
    (row,) = outcome.failed
    assert row["status"] == "failed"
    assert row["error"].startswith("unknown training.monitor 'no.auc'")
    assert not (tmp_path / "runs" / row["key"]).exists()
    # the next call tries it again, and what has become possible is done
    again = run_jobs([broken_bad, good], tmp_path)
    assert (again.existing, len(again.failed), again.computed) == (1, 1, [])


def test_a_killed_child_costs_its_row_alone_which_goes_on_where_it_stood(toy_folder: Path, tmp_path: Path) -> None:
    recipe = {"training.epochs": 8, "training.eval_interval": 1000, "training.checkpoint_interval": 5}
    (long,) = small_cases(toy_folder, models=["rankmixer"], recipe=recipe)
    (short,) = small_cases(toy_folder, models=["rankmixer"], recipe={"training.max_steps": 2})
    jobs = [long.job(0, Rates(1e-3, 1e-3)), short.job(0, Rates(1e-3, 1e-3))]
    checkpoints = tmp_path / "runs" / jobs[0].key / "checkpoints"

    others = set(multiprocessing.active_children())  # of tests before this one

    class Killer:
        """Kills the process that trains, when it has written a checkpoint."""

        killed = False

        def row(self, *_: Any) -> None:
            pass

        def running(self, *_: Any) -> None:
            if not self.killed and any(checkpoints.glob("step-*")):
                self.killed = True
                (worker,) = set(multiprocessing.active_children()) - others
                worker.kill()

    outcome = run_jobs(jobs, tmp_path, view=Killer())
    (row,) = outcome.failed
    assert row["error"] == "its process was killed by SIGKILL, perhaps by the system for want of memory"
    assert [done["key"] for done in outcome.computed] == [jobs[1].key]
    assert any(checkpoints.glob("step-*"))
    started = time.time()
    again = run_jobs(jobs, tmp_path)
    assert [done["key"] for done in again.computed] == [jobs[0].key]
    assert again.existing == 1
    created = (tmp_path / "runs" / jobs[0].key / "config.yaml").stat().st_mtime
    assert created < started  # the run was continued, not begun again


def test_a_second_call_in_the_same_folder_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    with study_lock(tmp_path), pytest.raises(UnimixerError, match="is being computed by another process; wait for it"):
        run_jobs([], tmp_path)


def test_a_request_to_stop_names_the_command_that_continues(toy_folder: Path, tmp_path: Path) -> None:
    (case, _) = small_cases(
        toy_folder, recipe={"training.epochs": 4000, "training.eval_interval": 100_000, "training.log_every": 5}
    )
    job = case.job(0, Rates(1e-3, 1e-3))

    class Stopper:
        asked = False

        def row(self, *_: Any) -> None:
            pass

        def running(self, *_: Any) -> None:
            if not self.asked and position(tmp_path / "runs" / job.key)[0] > 0:
                self.asked = True
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(UnimixerError, match=r"^stopped with 0 of 1 rows done; continue with: again$"):
        run_jobs([job], tmp_path, schedule=Schedule(resume_with="again"), view=Stopper())
    assert any((tmp_path / "runs" / job.key / "checkpoints").glob("step-*"))
    assert not (tmp_path / "rows").exists()


def test_a_machine_is_written_as_options() -> None:
    assert Machine(workers=3, threads=2).options() == " --jobs 3 --threads 2"


def test_a_machine_on_a_cluster_needs_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'unimixer\[sweep\]'"):
        Machine(ray="auto")
