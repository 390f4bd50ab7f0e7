"""A whole study: plan it, say what it costs, compute what is missing, write tables and report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from unimixer.data.dataset import Store
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Case, build_cases, open_stores
from unimixer.experiments.executor import Outcome, run_jobs, study_lock
from unimixer.experiments.lr_search import RateSearch, chosen_rates
from unimixer.experiments.progress_view import watching
from unimixer.experiments.results import OK, done_keys, is_study, read_row, write_tables
from unimixer.experiments.scores import write_truth
from unimixer.experiments.study_config import JUDGED, Study, joined, read_plan, write_plan
from unimixer.experiments.time_estimate import Estimate, estimates, measure_speeds
from unimixer.workers.executor import MakeExecutor
from unimixer.workers.local import LocalExecutor


@dataclass(frozen=True)
class Machine:
    """How a study runs here; rows do not depend on it but for their speed."""

    workers: int = 1
    threads: int = 1

    def options(self) -> str:
        """As written on the command line."""
        return f" --jobs {self.workers} --threads {self.threads}"


@dataclass
class Planned:
    """A study whose models are sized and timed."""

    study: Study
    cases: list[Case]
    left_out: dict[str, str]
    """Reasons why some models cannot be built at a budget, where the study allows that."""
    search: RateSearch
    estimates: list[Estimate] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Rows to compute."""
        return sum(estimate.runs for estimate in self.estimates)

    def seconds(self, workers: int) -> float:
        """Expected time of what is missing."""
        return sum(estimate.total_seconds for estimate in self.estimates) / workers


@states_kept()
def plan_study(
    study: Study, folder: Path, machine: Machine, *, keep_speeds: bool = True, executor: MakeExecutor = LocalExecutor
) -> Planned:
    """Size every model and measure its speed; nothing is trained, and rows are not touched.

    Args:
        study: what is asked.
        folder: of the study, which need not exist.
        machine: processes and threads.
        keep_speeds: write measured speeds to the folder, so that the next call need not measure.
        executor: makes what runs the measurements.

    Raises:
        UnimixerError: if a model cannot be sized or trained, or the folder was begun with other settings.
    """
    study = open_stores(study)
    if is_study(folder):
        joined(read_plan(folder), study, folder)
    cases, left_out = build_cases(study)
    if not cases:
        raise UnimixerError(f"no model can be built: {next(iter(left_out.values()))}")
    search = RateSearch(cases, seeds=study.seeds, grid=study.grid, monitor=study.recipe.get("training.monitor"))
    missing = {number: _missing(case, search, folder) for number, case in enumerate(cases)}
    wanted = [case for number, case in enumerate(cases) if missing[number]]
    with TemporaryDirectory() as scratch:
        keep = keep_speeds or is_study(folder)
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
        place = folder if keep else Path(scratch)
        speeds = measure_speeds(
            wanted,
            place,
            workers=machine.workers,
            threads=machine.threads,
            log=place / "workers.log",
            executor=executor,
        )
    found = estimates(
        cases, speeds, missing=missing, rows_a_case=search.rows_a_case, workers=machine.workers, threads=machine.threads
    )
    return Planned(study, cases, left_out, search, found)


def _missing(case: Case, search: RateSearch, folder: Path) -> int:
    """Rows of a case that are not there yet."""
    first = [case.job(0, *rates) for rates in search.grid]
    rows = [row for row in (read_row(folder, job.key) for job in first) if row is not None]
    done = len([row for row in rows if row["status"] == OK])
    chosen = chosen_rates(rows, search.grid, search.monitor)
    if chosen is None:
        return len(first) - done + search.seeds - 1
    wanted = [case.job(seed, *chosen).key for seed in range(search.seeds)]
    later = wanted if len(search.grid) == 1 else wanted[1:]
    open_first = 0 if len(search.grid) == 1 else len(first) - done
    return open_first + len(later) - len(done_keys(folder, later))


@states_kept()
def compute_study(
    planned: Planned,
    folder: Path,
    machine: Machine,
    *,
    keep_runs: bool = False,
    quiet: bool = False,
    executor: MakeExecutor = LocalExecutor,
    more: str = "",
) -> Outcome:
    """Compute the rows that are missing, then write the tables.

    Args:
        planned: from :func:`plan_study`.
        folder: of the study.
        machine: processes and threads.
        keep_runs: keep weights and checkpoints of finished rows.
        quiet: say nothing on standard error.
        executor: makes what runs the jobs.
        more: options of the command that continues, for the message of a study that was stopped.

    Raises:
        UnimixerError: when stopped; the message has the command that continues.
    """
    with study_lock(folder):
        write_plan(folder, planned.study)
        for ref in planned.study.data:
            case = next((case for case in planned.cases if case.store.hash == ref.hash), None)
            if case is not None:
                write_truth(folder, Store(ref.path), tuple(case.recipe.tasks))
    expected: dict[str, float] = {}
    for estimate in planned.estimates:
        jobs = [estimate.case.job(seed, *rates) for rates in planned.search.grid for seed in range(planned.study.seeds)]
        expected |= dict.fromkeys((job.key for job in jobs), estimate.seconds)
    with watching(folder, quiet=quiet) as view:
        outcome = run_jobs(
            planned.search.first_jobs(),
            folder,
            workers=machine.workers,
            threads=machine.threads,
            keep_runs=keep_runs,
            follow=planned.search.after,
            total=planned.search.total(),
            expected=expected,
            view=view,
            resume_with=f"unimixer compare {shlex.quote(str(folder))}{machine.options()}{more}",
            executor=executor,
        )
    write_tables(folder)
    return outcome


def report_study(
    folder: Path, *, base: str | None = None, tasks: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Path:
    """Write the report of a study from its rows and scores; nothing is trained.

    Args:
        folder: a study.
        base: label of the model that the others are compared with (default, like the next two: the plan's).
        tasks: tasks whose differences are judged.
        metrics: metrics whose differences are judged.
    """
    from unimixer.report.study import write_report

    plan = read_plan(folder)
    write_tables(folder)
    return write_report(
        folder,
        base=base or plan.base,
        tasks=tuple(tasks) or plan.judged_tasks or None,
        metrics=tuple(metrics) or plan.judged_metrics or JUDGED,
    )
