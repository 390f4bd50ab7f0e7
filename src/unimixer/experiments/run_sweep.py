"""A whole sweep: plan it, say what it costs, compute what is missing, write the points."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from unimixer.data.dataset import Store
from unimixer.environment import states_kept
from unimixer.experiments.cases import Case, Job, unique
from unimixer.experiments.executor import Outcome, run_jobs, study_lock
from unimixer.experiments.lr_transfer import Trial
from unimixer.experiments.points_file import TRAINING, blocks, write_points
from unimixer.experiments.progress_view import watching
from unimixer.experiments.run_study import Machine
from unimixer.experiments.scores import write_truth
from unimixer.experiments.size_series import Ladder, width
from unimixer.experiments.sweep_config import Sweep, build_ladders, open_sweep, write_sweep
from unimixer.experiments.time_estimate import Estimate, expected_seconds, measure_speeds, speed_key, table_rows
from unimixer.workers.executor import MakeExecutor
from unimixer.workers.local import LocalExecutor

MEASURED = 3
"""Sizes of a model whose speed is measured; that of the others is read off between them."""


@dataclass
class PlannedSweep:
    """A sweep whose models are sized and timed."""

    sweep: Sweep
    ladders: list[Ladder]
    left_out: dict[str, str]
    estimates: list[Estimate] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Rows to compute, at most."""
        return sum(estimate.runs for estimate in self.estimates)

    @property
    def total(self) -> int:
        """Rows in the end, at most."""
        return sum(ladder.total() for ladder in self.ladders)

    def seconds(self, workers: int) -> float:
        """Expected time of what is missing; the largest run alone may take as long as all others side by side."""
        longest = max((estimate.seconds for estimate in self.estimates if estimate.runs), default=0.0)
        return max(sum(estimate.total_seconds for estimate in self.estimates) / workers, longest)

    def flops(self) -> float:
        """FLOPs of training what is missing."""
        return sum(float(e.runs) * TRAINING * e.case.flops_per_sample * e.case.samples for e in self.estimates)

    def table(self) -> list[dict[str, Any]]:
        """The plan as plain values, a line a size of a model."""
        lines = []
        for estimate, line in zip(self.estimates, table_rows(self.estimates), strict=True):
            ladder = next(ladder for ladder in self.ladders if estimate.case in ladder.cases)
            rule, searched = ladder.transfer, estimate.case in ladder.anchors
            lines.append(
                {
                    **{name: line[name] for name in ("data", "model", "dense parameters", "FLOPs/sample")},
                    "blocks": blocks(estimate.case),
                    "width": round(width(estimate.case), 1),
                    "rate": rule.at(width(estimate.case))
                    if rule is not None
                    else "searched"
                    if searched
                    else "by the rule",
                    **{name: line[name] for name in ("rows", "to compute", "samples/s", "seconds a row", "seconds")},
                }
            )
        return lines


@states_kept()
def plan_sweep(
    sweep: Sweep, folder: Path, machine: Machine, *, keep_speeds: bool = True, executor: MakeExecutor = LocalExecutor
) -> PlannedSweep:
    """Size every model and measure its speed; nothing is trained, and rows are not touched.

    Args:
        sweep: what is asked.
        folder: of the sweep, which need not exist.
        machine: processes and threads.
        keep_speeds: write measured speeds to the folder, so that the next call need not measure.
        executor: makes what runs the measurements.
    """
    sweep = open_sweep(sweep, folder)
    ladders, left_out = build_ladders(sweep)
    missing = [ladder.missing(folder) for ladder in ladders]
    wanted: list[Case] = []
    for ladder, counts in zip(ladders, missing, strict=True):
        wanted += _measured(ladder) if any(counts.values()) else []
    with TemporaryDirectory() as scratch:
        place = folder if keep_speeds else Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        known = measure_speeds(
            wanted,
            place,
            workers=machine.workers,
            threads=machine.threads,
            log=place / "workers.log",
            executor=executor,
        )
    found = []
    for ladder, counts in zip(ladders, missing, strict=True):
        speeds = _speeds(ladder, known, machine)
        for case in ladder.cases:
            speed = speeds.get(case.name)
            rows = ladder.seeds + (len(ladder.grid) if case in ladder.anchors else 0)
            pace, seconds = (None, 0.0) if speed is None else (speed["training"], expected_seconds(case, speed))
            found.append(Estimate(case, counts[case.name], rows, pace, seconds))
    return PlannedSweep(sweep, ladders, left_out, found)


def _measured(ladder: Ladder) -> list[Case]:
    """The smallest size, the largest, and those evenly between them."""
    places = np.linspace(0, len(ladder.cases) - 1, min(MEASURED, len(ladder.cases)))
    return [ladder.cases[place] for place in sorted({round(float(place)) for place in places})]


def _speeds(ladder: Ladder, known: Mapping[str, Mapping[str, float]], machine: Machine) -> dict[str, dict[str, float]]:
    """Samples a second of every size, between measured ones by a straight line in logarithms over FLOPs."""
    measured = [case for case in _measured(ladder) if speed_key(case, machine.workers, machine.threads) in known]
    if not measured:
        return {}
    flops = np.log([max(case.flops_per_sample, 1) for case in measured])
    found: dict[str, dict[str, float]] = {case.name: {} for case in ladder.cases}
    for kind in ("training", "evaluation"):
        paces = np.log([known[speed_key(case, machine.workers, machine.threads)][kind] for case in measured])
        for case in ladder.cases:
            found[case.name][kind] = float(np.exp(np.interp(np.log(max(case.flops_per_sample, 1)), flops, paces)))
    return found


@states_kept()
def compute_sweep(
    planned: PlannedSweep,
    folder: Path,
    machine: Machine,
    *,
    keep_runs: bool = False,
    quiet: bool = False,
    executor: MakeExecutor = LocalExecutor,
    more: str = "",
) -> Outcome:
    """Compute the rows that are missing, then write ``points.csv``.

    Args:
        planned: from :func:`plan_sweep`.
        folder: of the sweep.
        machine: processes and threads.
        keep_runs: keep weights and checkpoints of finished rows.
        quiet: say nothing on standard error.
        executor: makes what runs the jobs.
        more: options of the command that continues, for the message of a sweep that was stopped.
    """
    _begin(planned, folder)
    follow = {job.key: ladder for ladder in planned.ladders for job in ladder.search()}
    expected = _Expected(planned.estimates)

    def after(row: Mapping[str, Any]) -> Sequence[Job]:
        ladder = follow.get(str(row["key"]))
        return expected.named([] if ladder is None else ladder.after(row))

    # small ones first: a sweep that is stopped early still has its searches, and curves that begin
    jobs = unique([job for ladder in planned.ladders for job in ladder.first_jobs()])
    jobs = sorted(expected.named(jobs), key=lambda job: job.case.flops_per_sample)
    with watching(folder, quiet=quiet) as view:
        outcome = run_jobs(
            jobs,
            folder,
            workers=machine.workers,
            threads=machine.threads,
            keep_runs=keep_runs,
            follow=after,
            total=planned.total,
            expected=expected,
            view=view,
            resume_with=f"unimixer scale run {shlex.quote(str(folder))}{machine.options()}{more}",
            executor=executor,
        )
    write_points(folder, planned.ladders)
    return outcome


class _Expected(dict[str, float]):
    """Seconds of every run by its key; of runs whose rate, and so whose key, is not known yet, by a number."""

    def __init__(self, estimates: Sequence[Estimate]) -> None:
        super().__init__()
        self._seconds = {estimate.case.name: estimate.seconds for estimate in estimates}
        for estimate in estimates:
            self.update({f"{estimate.case.name} {number}": estimate.seconds for number in range(estimate.runs)})

    def named(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Put jobs in the place of runs without a key; return them."""
        for job in jobs:
            name = job.case.name
            unnamed = next((key for key in self if key.startswith(f"{name} ") and key[len(name) + 1 :].isdigit()), None)
            if unnamed is not None and job.key not in self:
                del self[unnamed]
                self[job.key] = self._seconds[name]
        return jobs


def try_rates(
    planned: PlannedSweep,
    folder: Path,
    machine: Machine,
    *,
    quiet: bool = False,
    executor: MakeExecutor = LocalExecutor,
) -> tuple[list[Trial], Outcome]:
    """Train the whole grid of rates at every size with the first seed: what the rule of transfer is tested on."""
    _begin(planned, folder)
    jobs = [
        case.job(0, rate, ladder.sparse_lr)
        for ladder in planned.ladders
        for case in ladder.cases
        for rate in ladder.grid
    ]
    with watching(folder, quiet=quiet) as view:
        outcome = run_jobs(jobs, folder, workers=machine.workers, threads=machine.threads, view=view, executor=executor)
    trials: list[Trial] = []
    for ladder in planned.ladders:
        whole = Ladder(
            ladder.cases,
            seeds=1,
            grid=ladder.grid,
            sparse_lr=ladder.sparse_lr,
            anchors=[case.budget for case in ladder.cases],
            power=ladder.power,
            monitor=ladder.monitor,
        )
        whole.take(folder)
        trials += whole.trials()
    return trials, outcome


def _begin(planned: PlannedSweep, folder: Path) -> None:
    with study_lock(folder):
        write_sweep(folder, planned.sweep)
        for ref in planned.sweep.data:
            case = next(ladder.cases[0] for ladder in planned.ladders if ladder.cases[0].store.hash == ref.hash)
            write_truth(folder, Store(ref.path), tuple(case.recipe.tasks))
