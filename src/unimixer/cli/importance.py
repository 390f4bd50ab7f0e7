"""``unimixer importance``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.analysis.importance import ImportanceOptions, measure_importance
from unimixer.cli.experiment import split
from unimixer.cli.output import Device, Json, emit, table, takes
from unimixer.progress import say
from unimixer.report.figures import check_figure
from unimixer.report.importance import importance_rows, write_importance


@dataclass(frozen=True)
class Options:
    """Choose the model, the rows, and the parts of the input that are replaced."""

    model: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder, or a bundle with --data.")]
    data: Annotated[
        Path | None, typer.Option("--data", help="The dataset, of a bundle, or if it moved since the training.")
    ] = None
    split_name: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test"
    task: Annotated[str | None, typer.Option("--task", help="Task to measure (default: the first).")] = None
    by: Annotated[str, typer.Option("--by", help="features (a history is one), or domains.")] = "features"
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", help="Names that are replaced together, as item_id,category. May be repeated."),
    ] = None
    rows: Annotated[int | None, typer.Option("--rows", help="Measure on whole users with this many rows.")] = None
    repeats: Annotated[int, typer.Option("--repeats", help="Permutations of every part.")] = 1
    missing: Annotated[
        bool, typer.Option("--missing", help="Replace values by missing ones instead of permuting them.")
    ] = False
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of permutations and draws of users.")] = 0
    out: Annotated[
        Path | None, typer.Option("--out", help="Files to write, without ending: the numbers as JSON, a picture.")
    ] = None
    device: Device = "auto"
    as_json: Json = False


@takes(Options)
def importance(options: Options) -> None:
    """Measure which features matter to a run or a bundle: the loss of AUC when a feature comes from other rows.

    Nothing is trained again; unimixer ablate --without trains without a feature. Intervals of 95% are over users.

    Examples: unimixer importance RUN · unimixer importance RUN --by domains --group user_id,item_id --out importance
    """
    if options.out is not None:
        check_figure(options.out)
    found = measure_importance(
        options.model,
        ImportanceOptions(
            split=options.split_name,
            task=options.task,
            by=options.by,
            groups=[split(text) for text in options.groups or ()],
            rows=options.rows,
            repeats=options.repeats,
            missing=options.missing,
            seed=options.seed,
        ),
        dataset=options.data,
        device=options.device,
    )
    if options.out is not None:
        say(f"wrote {', '.join(str(path) for path in write_importance(found, options.out))}")

    def show() -> None:
        columns, rows = importance_rows(found)
        table(f"{found.model}: importance for {found.task}, values {found.replaced_by}", columns, rows)
        base = ", ".join(f"{name} {value:.4f}" for name, value in found.base.items())
        print(f"{found.rows:,} rows of {found.users:,} users in {found.seconds:.1f} s; the model as it is: {base}")

    emit(found.as_json(), options.as_json, show)
