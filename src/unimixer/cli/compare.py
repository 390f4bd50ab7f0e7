"""``unimixer compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.studies import (
    BatchSize,
    Common,
    Data,
    DryRun,
    Flops,
    Jobs,
    Json,
    JudgedMetrics,
    JudgedTasks,
    KeepRuns,
    MaxSteps,
    Out,
    Params,
    Raw,
    Ray,
    ReportOnly,
    Seeds,
    SparseRates,
    Threads,
    carry_out,
    common_recipe,
    given_values,
    machine,
    question,
)
from unimixer.cli.studies import report_only as only_report

if TYPE_CHECKING:
    from unimixer.experiments import Study

HELP = """Train models at equal budgets with several seeds and say what their differences are worth; or go on with it.

Every model has the same features, batches and steps, and its learning rate from one grid, chosen on validation with the
first seed. What is done is never done again: the same call, or the folder alone, computes what is missing. Examples:
unimixer compare --data STORE --models rankmixer,unimixer-lite,unimixer-lite:num_blocks=4 --params 1M --out FOLDER ·
unimixer compare study.yaml --raw FILES --out FOLDER · unimixer compare FOLDER [--report-only]"""


def compare(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="A study (YAML), or the folder of one that was begun.")
    ] = None,
    data: Data = None,
    raw: Raw = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="BACKBONE[:OPTION=VALUE]..., separated by commas; label=NAME names one."),
    ] = None,
    params: Params = None,
    flops: Flops = None,
    seeds: Seeds = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Model that the others are compared with (default: the first).")
    ] = None,
    tasks: JudgedTasks = None,
    metrics: JudgedMetrics = None,
    out: Out = None,
    lr_grid: Annotated[
        str | None, typer.Option("--lr-grid", help="Dense learning rates to choose from (default 1e-3,2e-3,4e-3).")
    ] = None,
    sparse_lr: SparseRates = None,
    batch_size: BatchSize = None,
    max_steps: MaxSteps = None,
    settings: Common = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    ray: Ray = None,
    dry_run: DryRun = False,
    report_only: ReportOnly = False,
    keep_runs: KeepRuns = False,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.experiments.sources import prepare_missing
    from unimixer.experiments.study_config import split_models

    if report_only:
        only_report(study if out is None else out, base, as_json=as_json, **question(tasks, metrics))
        return
    given = given_values(data=data, params=params, flops=flops, seeds=seeds, rates=lr_grid, sparse_lr=sparse_lr)
    if models:
        given["models"] = [model for text in models for model in split_models(text)]
    if base is not None:
        given["base"] = base
    given |= {f"judged_{key}": value for key, value in question(tasks, metrics).items()}
    planned, folder = _study(study, out, given, common_recipe(settings, batch_size, max_steps))
    prepare_missing(planned, raw)
    carry_out(planned, folder, machine(jobs, threads), ray=ray, dry_run=dry_run, keep_runs=keep_runs, as_json=as_json)


def _study(source: Path | None, out: Path | None, given: dict[str, Any], recipe: dict[str, Any]) -> tuple[Study, Path]:
    """The study that was asked for, and its folder."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments.results import is_study
    from unimixer.experiments.study_config import PLAN, Study
    from unimixer.settings import Document, load_yaml, parse

    folder = source if source is not None and is_study(source) else out
    if folder is None:
        raise UnimixerError("where to? give --out FOLDER, or the folder of a study that was begun")
    if source is not None and source == folder and out is not None and out.resolve() != folder.resolve():
        raise UnimixerError(f"{source} is a study that goes on in its own folder; leave out --out {out}")
    # a folder alone is its own plan
    whole = source == folder or (source is None and is_study(folder) and "models" not in given)
    path = folder / PLAN if whole else source
    values = Document({}, {}) if path is None else load_yaml(path)
    for field, option in (("data", "--data STORE"), ("models", "--models A,B")):
        if field not in {**values, **given}:
            raise UnimixerError(f"a study needs {field}: give {option}, or a study (YAML) that has them")
    if "params" in given or "flops" in given:  # a budget on the command line stands for all of the file's
        values = Document({k: v for k, v in values.items() if k not in ("params", "flops")}, values.origins)
    if recipe:
        given = {**given, "recipe": {**(values.get("recipe") or {}), **recipe}}
    return parse(Study, values.with_values(given, "command line"), where=str(path or "study")), folder
