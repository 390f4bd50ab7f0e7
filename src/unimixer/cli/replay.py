"""``unimixer replay``: compare logged answers with computed ones."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.bundles import open_bundle
from unimixer.cli.output import Json, emit, table, takes
from unimixer.errors import UnimixerError
from unimixer.serving.prediction_log.replay import EagerScorer
from unimixer.serving.prediction_log.replay import replay as replay_log
from unimixer.serving.stores import open_store


@dataclass(frozen=True)
class ReplayOptions:
    """Choose the logged answers and the model to compare them with."""

    log: Annotated[
        str, typer.Argument(help="Folder of a prediction log, one part of it, or postgresql://user@host/db.")
    ]
    store: Annotated[str, typer.Option("--store", help="SQLite file, or redis://host:port/db.")]
    run: Annotated[Path | None, typer.Option("--run", help="Compare with the model of this run.")] = None
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Compare with this bundle and skip the answers of others.")
    ] = None
    version: Annotated[str | None, typer.Option("--version", help="Compare only answers of this model version.")] = None
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Largest difference of scores that count as equal.")
    ] = 1e-5
    listed: Annotated[int, typer.Option("--list", help="Largest number of differing scores to list.")] = 20
    as_json: Json = False


@takes(ReplayOptions)
def replay(options: ReplayOptions) -> None:
    """Compute the answers of a prediction log again and list the differences by row and feature; exit code 1 if any.

    Examples: unimixer replay scores --store features.sqlite --run RUN · unimixer replay scores --store S
    --bundle BUNDLE
    """
    if (options.run is None) == (options.bundle is None):
        raise UnimixerError("compare with one model: give either --run or --bundle")
    with closing(open_store(options.store)) as store:
        scorer = open_bundle(options.bundle) if options.bundle is not None else EagerScorer(options.run or Path())
        version = options.version or (scorer.version if options.bundle is not None else None)
        result = replay_log(
            options.log, store, scorer, version=version, tolerance=options.tolerance, listed=options.listed
        )

    def show() -> None:
        counts = (
            f"{result.requests:,} answers, {result.rows:,} scores compared; {result.differing_rows:,} differ by more"
        )
        print(
            f"{counts} than {options.tolerance:g}; largest difference {result.largest:.3g}; "
            f"{result.skipped:,} answers of other versions skipped"
        )
        if result.features:
            rows = sorted(result.features.items(), key=lambda pair: -pair[1])
            table("features that differ", ["feature", "answers"], rows)
        if result.differences:
            columns = ["request", "item", "task", "logged", "computed", "changed since", "features"]
            cells = [
                [d.request_id, d.item, d.task, f"{d.logged:.6f}", f"{d.computed:.6f}", d.changed, ", ".join(d.features)]
                for d in result.differences
            ]
            table("rows that differ", columns, cells, left=3)

    emit(asdict(result), options.as_json, show)
    if result.differing_rows:
        raise typer.Exit(1)
