"""``unimixer compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli import studies
from unimixer.cli.output import takes
from unimixer.cli.studies import StudyOptions, split

HELP = """Train models at equal budgets with several seeds and report significant differences; or continue a study.

Every model has the same features, batches and steps, and its learning rate from one grid, chosen on validation with the
first seed. Finished rows are kept: the same call, or the folder alone, computes the missing ones. Examples:
unimixer compare --data DATASET --models rankmixer,unimixer-lite,unimixer-lite:num_blocks=4 --params 1M --out FOLDER ·
unimixer compare study.yaml --raw FILES --out FOLDER · unimixer compare FOLDER [--report-only]"""


@dataclass(frozen=True)
class CompareOptions(StudyOptions):
    """Options of ``unimixer compare``."""

    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="A study (YAML), or the folder of one that was begun.")
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
    """See :data:`HELP`."""
    from unimixer.experiments import Study
    from unimixer.experiments.datasets import prepare_missing
    from unimixer.experiments.models import split_models
    from unimixer.experiments.plan import is_begun

    source, out = options.study, options.out
    judged = {"tasks": options.tasks, "metrics": options.metrics}
    question = {key: split(text) for key, text in judged.items() if text is not None}
    if options.report_only:
        studies.report_only(source if out is None else out, options.base, as_json=options.as_json, **question)
        return
    values = options.values()
    if options.models:
        values["models"] = [model for text in options.models for model in split_models(text)]
    if options.base is not None:
        values["base"] = options.base
    values |= {f"judged_{key}": names for key, names in question.items()}
    folder = studies.folder_of(Study, source, out)
    # a folder alone is its own plan
    own_plan = source == folder or (source is None and is_begun(folder) and "models" not in values)
    needs = {
        field: f"a study needs {field}: give {option}, or a study (YAML) that has them"
        for field, option in (("data", "--data DATASET"), ("models", "--models A,B"))
    }
    study = studies.read_plan(Study, folder / Study.file if own_plan else source, values, options.recipe(), needs)
    prepare_missing(study.data, options.raw)
    studies.carry_out(study, folder, options)
