"""What ``compare`` and ``ablate`` share: options, the plan on the screen, the way from a plan to a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.output import Json, emit, say_what_is_not_drawn, table

if TYPE_CHECKING:
    from unimixer.experiments import Machine, Planned, Study

Data = Annotated[list[str] | None, typer.Option("--data", help="Prepared store; may be given several times.")]
Raw = Annotated[Path | None, typer.Option("--raw", help="Raw files of a study whose store is to be prepared first.")]
Params = Annotated[str | None, typer.Option("--params", help="Budgets in dense parameters, met within 2%: 1M,4M.")]
JudgedTasks = Annotated[
    str | None,
    typer.Option("--tasks", help="Tasks whose differences are judged (default: all); choose before looking."),
]
JudgedMetrics = Annotated[
    str | None, typer.Option("--metrics", help="Metrics that are judged: auc,uauc (default: these, log_loss and ne).")
]
Flops = Annotated[str | None, typer.Option("--flops", help="Budgets in forward FLOPs a sample, met within 2%: 2M,8M.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of a model (default 5).")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the study; one that exists is continued.")]
SparseRates = Annotated[
    str | None,
    typer.Option("--sparse-lr", help="Rates of the embedding tables: one, or several for a grid (default 1e-3)."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Short for --set training.batch_size=N.")]
MaxSteps = Annotated[int | None, typer.Option("--max-steps", min=1, help="Short for --set training.max_steps=N.")]
Common = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the recipe, for every model.")
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Processes side by side (default: the cores; 1 with a GPU).")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of each process.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print runs, cost and expected time, and train nothing.")]
ReportOnly = Annotated[bool, typer.Option("--report-only", help="Tables and report of the rows that are there.")]
KeepRuns = Annotated[bool, typer.Option("--keep-runs", help="Keep weights and checkpoints of finished rows.")]

__all__ = [
    "BatchSize",
    "Common",
    "Data",
    "DryRun",
    "Flops",
    "Jobs",
    "Json",
    "KeepRuns",
    "MaxSteps",
    "Out",
    "Params",
    "Raw",
]
__all__ += ["ReportOnly", "Seeds", "SparseRates", "Threads"]

COLUMNS = (
    *("data", "model", "budget", "dense parameters", "FLOPs/sample", "rows", "to compute", "samples/s"),
    *("seconds a row", "seconds"),
)


def given_values(
    *,
    data: Sequence[str] | None,
    params: str | None,
    flops: str | None,
    seeds: int | None,
    rates: str | None,
    sparse_lr: str | None,
) -> dict[str, Any]:
    """The fields of a study that were given on the command line."""
    lists = {"params": params, "flops": flops, "dense_lr": rates, "sparse_lr": sparse_lr}
    found: dict[str, Any] = {key: _split(text) for key, text in lists.items() if text is not None}
    if data:
        found["data"] = list(data)
    if seeds is not None:
        found["seeds"] = seeds
    return found


def question(tasks: str | None, metrics: str | None) -> dict[str, list[str]]:
    """What is judged, as far as it was given on the command line."""
    given = {"tasks": tasks, "metrics": metrics}
    return {key: _split(text) for key, text in given.items() if text is not None}


def common_recipe(settings: Sequence[str] | None, batch_size: int | None, max_steps: int | None) -> dict[str, Any]:
    """Keys of the recipe that were given on the command line."""
    from unimixer.settings import Change, check_distinct, read_changes

    short = {"batch_size": batch_size, "max_steps": max_steps}
    changes = [
        Change(f"training.{key}", value, f"--{key.replace('_', '-')} {value}")
        for key, value in short.items()
        if value is not None
    ]
    changes += read_changes(settings or [], "--set", "training.batch_size=512")
    check_distinct(changes)
    return {change.key: change.value for change in changes}


def machine(jobs: int | None, threads: int) -> Machine:
    """Processes and threads: by default as many processes as there are cores for, and one on a GPU."""
    import torch

    from unimixer.environment import cores
    from unimixer.experiments import Machine

    return Machine(jobs or (1 if torch.cuda.is_available() else max(1, cores() // threads)), threads)


def carry_out(
    study: Study,
    folder: Path,
    place: Machine,
    *,
    notes: dict[str, str] | None = None,
    dry_run: bool,
    keep_runs: bool,
    as_json: bool,
) -> None:
    """Plan, say what it costs, compute, report."""
    from unimixer.experiments import compute_study, plan_study, report_study

    planned = plan_study(study, folder, place, keep_speeds=not dry_run)
    planned.left_out |= notes or {}
    if not as_json:
        show_plan(planned, place)
    if dry_run:
        emit({"folder": str(folder), **plan_values(planned, place)}, as_json, lambda: None)
        return
    say_what_is_not_drawn(f"unimixer compare {shlex.quote(str(folder))} --report-only")
    outcome = compute_study(planned, folder, place, keep_runs=keep_runs)
    written = report_study(folder)
    values = {
        "folder": str(folder),
        "computed": len(outcome.computed),
        "found": outcome.found,
        "failed": {row["key"]: row["error"] for row in outcome.failed},
        "report": str(written),
    }

    def show() -> None:
        print(f"{len(outcome.computed)} rows computed, {outcome.found} were there")
        for row in outcome.failed:
            print(f"failed: {row['key']}: {row['error']}")
        if outcome.failed:
            print(f"the next call tries the failed rows again: unimixer compare {folder}")
        print(f"report: {written}")

    emit(values, as_json, show)
    if outcome.failed:
        raise typer.Exit(1)


def report_only(folder: Path | None, base: str | None, *, as_json: bool, **question: Sequence[str]) -> None:
    """Tables and report from the rows of a folder."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments import report_study

    if folder is None:
        raise UnimixerError("--report-only of which study? give its folder")
    say_what_is_not_drawn(f"unimixer compare {shlex.quote(str(folder))} --report-only")
    written = report_study(folder, base=base, **question)
    emit({"folder": str(folder), "report": str(written)}, as_json, lambda: print(f"report: {written}"))


def plan_values(planned: Planned, place: Machine) -> dict[str, Any]:
    """The plan as plain values."""
    from unimixer.experiments.time_estimate import table_rows

    return {
        "plan": table_rows(planned.estimates),
        "left_out": planned.left_out,
        "rows": planned.search.total(),
        "to_compute": planned.missing,
        "processes": place.workers,
        "expected_seconds": round(planned.seconds(place.workers)),
    }


def show_plan(planned: Planned, place: Machine) -> None:
    """Print runs, cost and expected time."""
    from unimixer.progress import duration

    values, study = plan_values(planned, place), planned.study
    rows = [[_cell(line[column]) for column in COLUMNS] for line in values["plan"]]
    table(None, COLUMNS, rows, left=3)
    for what, reason in planned.left_out.items():
        print(f"left out: {what}: {reason}")
    grid = f"{len(study.grid)} learning rates with the first seed, then " if len(study.grid) > 1 else ""
    seeds = "one seed" if study.seeds == 1 else f"{study.seeds} seeds"
    print(f"a model: {grid}{seeds}; budgets are met within 2%")
    print(
        f"{values['to_compute']} of {values['rows']} rows to compute in {place.workers} "
        f"{'process' if place.workers == 1 else 'processes'}, "
        f"about {duration(values['expected_seconds'])} at the speed just measured"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
