"""``unimixer abtest load``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.cli.output import Json, emit, table, takes
from unimixer.errors import UnimixerError

Database = Annotated[str, typer.Option("--database", help="Events: sqlite:///FILE or postgresql://user@host:port/db.")]


@dataclass(frozen=True)
class LoadOptions:
    """Options of ``unimixer abtest load``."""

    database: Database
    outcomes: Annotated[list[Path] | None, typer.Option("--outcomes", help="Parquet or CSV of what units did.")] = None
    exposures: Annotated[list[Path] | None, typer.Option("--exposures", help="Parquet or CSV of who saw an arm.")] = (
        None
    )
    covariates: Annotated[
        list[Path] | None, typer.Option("--covariates", help="Parquet or CSV of values from before the start.")
    ] = None
    specification: Annotated[
        Path | None,
        typer.Option("--experiment", help="Specification: it is registered, and rows without a name belong to it."),
    ] = None
    as_json: Json = False


@takes(LoadOptions)
def load(options: LoadOptions) -> None:
    """Load outcomes, exposures and covariates of experiments from files; a row whose id is known is not added again.

    Columns have the names of the tables: event_id, unit, event, value, time, request_id, item of outcomes.

    Example: unimixer abtest load --database sqlite:///events.sqlite --outcomes clicks.parquet
    """
    from unimixer.abtest.events import Events
    from unimixer.abtest.load import load_file
    from unimixer.abtest.specification import load_experiment
    from unimixer.progress import progress_bar

    files = {"exposures": options.exposures, "outcomes": options.outcomes, "covariates": options.covariates}
    if not any(files.values()) and options.specification is None:
        raise UnimixerError("nothing to load; name files with --outcomes, --exposures or --covariates")
    experiment = None if options.specification is None else load_experiment(options.specification)
    events = Events(options.database)
    try:
        new = experiment is not None and events.register(experiment)
        with progress_bar("loading", None, unit="rows") as advance:
            loaded = [
                load_file(events, kind, path, experiment=experiment, advance=advance)
                for kind, paths in files.items()
                for path in paths or ()
            ]
    finally:
        events.close()
    columns = ["table", "file", "rows", "added", "repeated", "first time", "last time", "columns not read"]
    rows = [(one.table, one.file, f"{one.rows:,}", f"{one.added:,}", f"{one.repeated:,}", *one.days,
             ", ".join(one.ignored)) for one in loaded]  # fmt: skip
    values: dict[str, Any] = {"database": events.name, "loaded": [one.values() for one in loaded]}
    title = events.name
    if experiment is not None:
        values["registered"] = {"experiment": experiment.name, "version": experiment.version, "new": new}
        state = "is registered now" if new else "was registered before"
        title += f": version {experiment.version} of experiment {experiment.name!r} {state}"
    emit(values, options.as_json, lambda: table(title, columns, rows, left=2) if rows else print(title))
