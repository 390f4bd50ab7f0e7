"""An experiment: a plan sized and timed, computed as far as its folder lacks rows, then written as tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unimixer.data.dataset import Dataset
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Case, Job, build_case, case_name, unique
from unimixer.experiments.executor import Machine, Outcome, Schedule, run_jobs, study_lock
from unimixer.experiments.lr_search import LRTrial
from unimixer.experiments.models import Variant
from unimixer.experiments.plan import Plan, Sweep, write_plan
from unimixer.experiments.plan_file import is_begun
from unimixer.experiments.progress_view import watching
from unimixer.experiments.results import TRAINING_COST, Row, write_points, write_tables, write_truth
from unimixer.experiments.size_series import GridSeries, SizeSeries, TransferSeries
from unimixer.experiments.time_estimate import Estimate, estimate_series, evenly
from unimixer.profiling.latency import latencies


@dataclass
class Experiment:
    """A plan in its folder: every model sized, and the jobs that its searches lead to.

    Args:
        plan: the plan, with opened datasets.
        folder: folder of the experiment, which need not exist.
        machine: processes and threads.
        series: models at their sizes.
        left_out: by model and budget, the reason why it cannot be built, if the plan is lenient.
        estimates: expected times, one per case; empty if nothing was measured.
    """

    plan: Plan
    folder: Path
    machine: Machine
    series: list[SizeSeries]
    left_out: dict[str, str]
    estimates: list[Estimate] = field(default_factory=list)

    @property
    def cases(self) -> list[Case]:
        """All cases, model by model."""
        return [case for one in self.series for case in one.cases]

    @property
    def transfers(self) -> list[TransferSeries]:
        """The models whose rates a rule carries to other sizes."""
        return [one for one in self.series if isinstance(one, TransferSeries)]

    @property
    def missing(self) -> int:
        """Number of rows to compute, at most."""
        return sum(estimate.runs for estimate in self.estimates)

    @property
    def total(self) -> int:
        """Number of rows in the end, at most."""
        return sum(one.total() for one in self.series)

    def seconds(self) -> float:
        """Estimate the time of the missing rows; the largest run alone may take as long as all others side by side."""
        longest = max((estimate.seconds for estimate in self.estimates if estimate.runs), default=0.0)
        return max(sum(estimate.total_seconds for estimate in self.estimates) / self.machine.workers, longest)

    def flops(self) -> float:
        """Count the FLOPs of training the missing rows."""
        return sum(float(e.runs) * TRAINING_COST * e.case.flops_per_sample * e.case.samples for e in self.estimates)

    def values(self) -> dict[str, Any]:
        """Return the cost of the experiment as plain values."""
        return {
            "plan": self.table(),
            "left_out": self.left_out,
            "rows": self.total,
            "to_compute": self.missing,
            **({"training_flops": self.flops()} if self.transfers else {}),
            "processes": self.machine.workers,
            "expected_seconds": round(self.seconds()),
        }

    def table(self) -> list[dict[str, Any]]:
        """Return the plan as plain values, one line per case."""
        lines = []
        for estimate in self.estimates:
            columns = {**estimate.columns(), "rate": self._rate(estimate.case)}
            lines.append({name: columns[name] for name in self.plan.columns})
        return lines

    def _rate(self, case: Case) -> float | str:
        """Return the dense rate of a case, or how it will be chosen."""
        series = next(one for one in self.series if case in one.cases)
        rates = series.rates()
        if rates is not None:
            return rates[series.cases.index(case)].dense
        return "searched" if case in series.base_cases else "by the rule"

    @states_kept()
    def compute(self, *, keep_runs: bool = False, quiet: bool = False) -> Outcome:
        """Compute the missing rows, then write the tables.

        Args:
            keep_runs: keep weights and checkpoints of finished rows.
            quiet: show no progress.

        Raises:
            StoppedError: when stopped; the message has the command that continues.
        """
        self._begin()
        jobs = unique([job for one in self.series for job in one.first_jobs()])
        if isinstance(self.plan, Sweep):  # small sizes first: a sweep that is stopped early has its searches
            jobs = sorted(jobs, key=lambda job: job.case.flops_per_sample)
        with watching(self.folder, quiet=quiet) as view:
            outcome = run_jobs(jobs, self.folder, self.machine, self._schedule(), keep_runs=keep_runs, view=view)
        if isinstance(self.plan, Sweep):
            self.write_points()
        else:
            write_tables(self.folder)
        return outcome

    def write_points(self, latency: Mapping[tuple[str, str, int], float] | None = None) -> None:
        """Write ``points.csv`` and ``rows.csv`` of a sweep, with the latency of a request if it is given."""
        for one in self.series:
            one.load(self.folder)
        write_points(self.folder, [job for one in self.series for job in one.jobs()], latency)

    @states_kept()
    def try_rates(self, *, quiet: bool = False) -> tuple[list[LRTrial], Outcome]:
        """Train the whole grid of rates at every size with the first seed, which tests the rule of transfer."""
        self._begin()
        series = [one.searched_everywhere() for one in self.transfers]
        with watching(self.folder, quiet=quiet) as view:
            outcome = run_jobs([job for one in series for job in one.search()], self.folder, self.machine, view=view)
        for one in series:
            one.load(self.folder)
        return [trial for one in series for trial in one.trials()], outcome

    def _begin(self) -> None:
        """Write the plan, and the labels and users of the test part, into the folder."""
        with study_lock(self.folder):
            write_plan(self.folder, self.plan)
            for ref in self.plan.data:
                case = next((case for case in self.cases if case.dataset.hash == ref.hash), None)
                if case is not None:
                    write_truth(self.folder, Dataset(ref.path), tuple(case.recipe.tasks))

    def _schedule(self) -> Schedule:
        """Return the jobs that follow a row, and the expected times."""
        searches = {job.key: one for one in self.series for job in one.search()}

        def follow(row: Row) -> Sequence[Job]:
            series = searches.get(str(row["key"]))
            return [] if series is None else series.after(row)

        def seconds(job: Job) -> float:
            return next(e.seconds for e in self.estimates if e.case is job.case)

        return Schedule(
            follow=follow,
            total=self.total,
            seconds=seconds if self.missing else None,
            mean_seconds=sum(e.total_seconds for e in self.estimates) / max(self.missing, 1),
            resume_with=f"{self.plan.command} {shlex.quote(str(self.folder))}{self.machine.options()}",
        )


@states_kept()
def plan_experiment(
    plan: Plan, folder: Path, machine: Machine | None = None, *, keep_speeds: bool = True
) -> Experiment:
    """Size every model and measure its speed; nothing is trained, and rows are not touched.

    Args:
        plan: a study or a sweep.
        folder: folder of the experiment, which need not exist.
        machine: processes and threads (default: one of each).
        keep_speeds: write measured speeds to the folder, so that the next call need not measure them.

    Raises:
        UnimixerError: if a model cannot be sized or trained, or the folder was begun with other settings.
    """
    experiment = size_experiment(plan, folder, machine)
    with TemporaryDirectory() as scratch:
        speeds_folder = folder if keep_speeds or is_begun(folder, type(plan)) else Path(scratch)
        experiment.estimates = estimate_series(experiment.series, folder, speeds_folder, experiment.machine)
    return experiment


def size_experiment(plan: Plan, folder: Path, machine: Machine | None = None) -> Experiment:
    """Size every model of a plan, joined with the plan of its folder; nothing is measured."""
    plan = plan.opened(folder)
    series, left_out = build_series(plan)
    return Experiment(plan, folder, machine or Machine(), series, left_out)


def build_series(plan: Plan) -> tuple[list[SizeSeries], dict[str, str]]:
    """Build the models of an opened plan at all their budgets, and say which cannot be built if the plan is lenient."""
    _check_ignored_features(plan)
    series: list[SizeSeries] = []
    left_out: dict[str, str] = {}
    for ref in plan.data:
        dataset = Dataset(ref.path)
        cases: dict[str, list[Case]] = {}
        widths: dict[tuple[str, str, int], float] = {}
        # a model that gets the width of another one comes after it
        for variant in sorted(plan.models, key=lambda variant: variant.size_of is not None):
            for budget in plan.budgets:
                sized = plan.at_budget(variant, budget)
                width = None
                try:
                    if variant.size_of is not None:
                        width = widths.get((variant.size_of, *budget))
                        if width is None:
                            raise UnimixerError(f"{variant.size_of!r}, whose width it gets, cannot be built")
                    case = build_case(plan, sized, ref, dataset, budget, width=width)
                except UnimixerError as error:
                    name = case_name(variant.label, budget)
                    if not plan.lenient:
                        raise UnimixerError(f"{name}: {error}") from None
                    left_out[name] = str(error)
                    continue
                widths[variant.label, *budget] = case.width
                cases.setdefault(variant.label, []).append(case)
        series += [one for v in plan.models if v.label in cases for one in _series(plan, v, cases[v.label])]
    if not series:
        raise UnimixerError(f"no model can be built: {next(iter(left_out.values()))}")
    return series, left_out


def _check_ignored_features(plan: Plan) -> None:
    """Refuse a name that no dataset has: it is a mistake, and no model that cannot be built."""
    names = {name for variant in plan.models for name in variant.recipe.get("model.ignored_features", ())}
    specs = [Dataset(ref.path).transform.spec for ref in plan.data] if names else []
    for name in sorted(names):
        if not any(name in (*spec.parts, *spec.parts.values()) for spec in specs):
            specs[0].select(name)  # raises


def _series(plan: Plan, variant: Variant, cases: Sequence[Case]) -> list[SizeSeries]:
    """Give the cases of one model on one dataset the search for learning rates that the plan asks for."""
    mixing = cases[0].searches_mixing
    if variant.mixing_lr and not mixing:
        raise UnimixerError(f"{variant.label}: this model has no learned mixing; leave mixing_lr out")
    grid = plan.grid(variant, mixing=mixing)
    search: dict[str, Any] = {"seeds": plan.seeds, "grid": grid, "monitor": plan.monitor}
    if isinstance(plan, Sweep):
        _check_apart(cases)
        sizes = [[case] for case in cases] if plan.lr_search == "every" else [cases]
        return [TransferSeries(some, power=plan.lr_power, base_sizes=plan.base_sizes, **search) for some in sizes]
    return [GridSeries([case], **search) for case in cases]


def _check_apart(cases: Sequence[Case]) -> None:
    """Raise if a model is the same at two sizes: a law cannot be fitted to points that repeat each other."""
    seen: dict[int, Case] = {}
    for case in cases:
        other = seen.setdefault(case.dense_params, case)
        if other is not case:
            raise UnimixerError(
                f"{case.name} and {other.name} are one model of {case.dense_params:,} parameters; leave one size "
                "out, or take sizes that lie further apart"
            )


def request_latencies(
    series: Sequence[SizeSeries], folder: Path, *, candidates: int, threads: int = 1, at_most: int | None = None
) -> dict[tuple[str, str, int], float]:
    """Measure the milliseconds of a request on this machine, the quicker of the eager and the frozen model.

    Args:
        series: models at their sizes.
        folder: folder that keeps the measurements.
        candidates: rows of a request.
        threads: threads of a request.
        at_most: number of sizes of a model to measure, evenly between the smallest and the largest (default: all).

    Returns:
        Latency by name of the dataset, label of the model and dense parameters.
    """
    milliseconds = {}
    for one in series:
        cases = evenly(one.cases, at_most or len(one.cases))
        for case, latency in zip(cases, latencies(cases, folder, candidates=candidates, threads=threads), strict=True):
            milliseconds[case.dataset.name, case.variant, case.dense_params] = latency.best
    return milliseconds
