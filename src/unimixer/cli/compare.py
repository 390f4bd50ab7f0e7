"""``unimixer compare``, and the steps of a study that ``unimixer ablate`` shares."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.experiment import (
    Data,
    DryRun,
    KeepRuns,
    TrainingOptions,
    finish,
    folder_of,
    plan_of,
    show_plan,
    split,
)
from unimixer.cli.output import emit, say_what_is_not_drawn, takes

if TYPE_CHECKING:
    from unimixer.experiments import Plan


@dataclass(frozen=True)
class StudyOptions(TrainingOptions):
    """Options of the verbs that train a study."""

    data: Data = None
    params: Annotated[
        str | None, typer.Option("--params", help="Budgets in dense parameters, met within 2%: 1M,4M.")
    ] = None
    flops: Annotated[
        str | None, typer.Option("--flops", help="Budgets in forward FLOPs a sample, met within 2%: 2M,8M.")
    ] = None
    widths: Annotated[
        str | None, typer.Option("--widths", help="Widths, each the same for every model whatever it costs: 64,128.")
    ] = None
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of a model (default 5).")] = None
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the study; an existing one is continued.")] = None
    lr_grid: Annotated[
        str | None, typer.Option("--lr-grid", help="Dense learning rates to choose from (default 1e-3,2e-3,4e-3).")
    ] = None
    sparse_lr: Annotated[
        str | None,
        typer.Option("--sparse-lr", help="Rates of the embedding tables: one, or several for a grid (default 1e-3)."),
    ] = None
    mixing_lr: Annotated[
        str | None, typer.Option("--mixing-lr", help="Rates of learned mixings: one, or several to choose from.")
    ] = None
    dry_run: DryRun = False
    report_only: Annotated[bool, typer.Option("--report-only", help="Write tables and report of existing rows.")] = (
        False
    )
    keep_runs: KeepRuns = False

    def values(self) -> dict[str, Any]:
        """Return the fields of a study that the command line sets."""
        lists = {"params": self.params, "flops": self.flops, "dense_lr": self.lr_grid, "sparse_lr": self.sparse_lr}
        lists |= {"widths": self.widths, "mixing_lr": self.mixing_lr}
        values: dict[str, Any] = {key: split(text) for key, text in lists.items() if text is not None}
        return values | {key: value for key, value in (("data", self.data), ("seeds", self.seeds)) if value}


@dataclass(frozen=True)
class CompareOptions(StudyOptions):
    """Options of ``unimixer compare``."""

    study: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY]", help="A study (YAML), the name of a packaged one, or the folder of one that was begun."
        ),
    ] = None
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="BACKBONE[:OPTION=VALUE]..., separated by commas; label=NAME names one."),
    ] = None
    raw: Annotated[
        Path | None, typer.Option("--raw", help="Raw files of a study whose dataset is to be prepared first.")
    ] = None
    base: Annotated[
        str | None, typer.Option("--base", help="Model that the others are compared with (default: the first).")
    ] = None
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Tasks whose differences are judged (default: all); choose before looking."),
    ] = None
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Metrics that are judged: auc,uauc (default: these, log_loss and ne)."),
    ] = None


@takes(CompareOptions)
def compare(options: CompareOptions) -> None:
    """Train models at equal budgets with several seeds and report significant differences; or continue a study.

    Every model has the same features, batches and steps, and its learning rate from one grid, chosen on validation with
    the first seed. Finished rows are kept: the same call, or the folder alone, computes the missing ones. Examples:
    unimixer compare --data DATASET --models rankmixer,unimixer-lite,unimixer-lite:num_blocks=4 --params 1M --out FOLDER
    · unimixer compare study.yaml --raw FILES --out FOLDER · unimixer compare FOLDER [--report-only]
    """
    from unimixer.experiments import Study
    from unimixer.experiments.datasets import prepare_missing
    from unimixer.experiments.models import split_models
    from unimixer.experiments.plan_file import is_begun

    source, out = options.study, options.out
    judged = {"tasks": options.tasks, "metrics": options.metrics}
    question = {key: split(text) for key, text in judged.items() if text is not None}
    if options.report_only:
        report_only(source if out is None else out, options.base, as_json=options.as_json, **question)
        return
    values = options.values()
    if options.models:
        values["models"] = [model for text in options.models for model in split_models(text)]
    if options.base is not None:
        values["base"] = options.base
    values |= {f"judged_{key}": names for key, names in question.items()}
    folder = folder_of(Study, source, out)
    # a folder alone is its own plan
    own_plan = source == folder or (source is None and is_begun(folder, Study) and "models" not in values)
    needs = {
        field: f"a study needs {field}: give {option}, or a study (YAML) that has them"
        for field, option in (("data", "--data DATASET"), ("models", "--models A,B"))
    }
    study = plan_of(Study, folder / Study.file if own_plan else source, values, options.recipe(), needs)
    prepare_missing(study.data, options.raw)
    carry_out(study, folder, options)


def carry_out(study: Plan, folder: Path, options: StudyOptions, notes: Mapping[str, str] | None = None) -> None:
    """Plan a study, print its cost, compute its rows and write the report."""
    from unimixer.experiments import plan_experiment

    experiment = plan_experiment(study, folder, options.machine(), keep_speeds=not options.dry_run)
    experiment.left_out |= notes or {}
    values = experiment.values()
    if not options.as_json:
        show_plan(experiment, values)
    if options.dry_run:
        emit({"folder": str(folder), **values}, options.as_json, lambda: None)
        return
    say_what_is_not_drawn(f"unimixer compare {shlex.quote(str(folder))} --report-only")
    outcome = experiment.compute(keep_runs=options.keep_runs)
    report = str(report_study(folder))
    retry = [f"the next call tries the failed rows again: unimixer compare {folder}"] if outcome.failed else []
    finish(folder, outcome, {"report": report}, [*retry, f"report: {report}"], as_json=options.as_json)


def report_only(
    folder: Path | None, base: str | None, *, as_json: bool, tasks: Sequence[str] = (), metrics: Sequence[str] = ()
) -> None:
    """Write the tables and the report of the rows that a folder has."""
    from unimixer.errors import UnimixerError

    if folder is None:
        raise UnimixerError("--report-only reads the rows of a study; give its folder")
    say_what_is_not_drawn(f"unimixer compare {shlex.quote(str(folder))} --report-only")
    written = report_study(folder, base=base, tasks=tasks, metrics=metrics)
    emit({"folder": str(folder), "report": str(written)}, as_json, lambda: print(f"report: {written}"))


def report_study(
    folder: Path, *, base: str | None = None, tasks: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Path:
    """Write the tables and the report of a study; base, tasks and metrics are the plan's unless they are given."""
    from unimixer.experiments import Study
    from unimixer.experiments.plan import JUDGED
    from unimixer.experiments.plan_file import read_plan
    from unimixer.experiments.results import write_tables
    from unimixer.report.study import write_report

    plan = read_plan(folder, Study)
    write_tables(folder)
    return write_report(
        folder,
        base=base or plan.base,
        tasks=tuple(tasks) or plan.judged_tasks or None,
        metrics=tuple(metrics) or plan.judged_metrics or JUDGED,
    )
