"""``unimixer abtest delete``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from unimixer.cli.abtest.load import Database
from unimixer.cli.abtest.read import opened
from unimixer.cli.output import Json, emit, takes
from unimixer.errors import UnimixerError


@dataclass(frozen=True)
class DeleteOptions:
    """Options of ``unimixer abtest delete``."""

    database: Database
    unit: Annotated[list[str] | None, typer.Option("--unit", help="Id whose rows are deleted; repeatable.")] = None
    before: Annotated[
        str | None, typer.Option("--before", help="Day (UTC): exposures and outcomes before it are deleted.")
    ] = None
    as_json: Json = False


@takes(DeleteOptions)
def delete(options: DeleteOptions) -> None:
    """Delete the events of units, or all events before a day, from every table.

    Examples: unimixer abtest delete --database sqlite:///events.sqlite --unit 7 · unimixer abtest delete --database
    sqlite:///events.sqlite --before 2026-01-01
    """
    from unimixer.abtest.records import time_us

    if (options.unit is None) == (options.before is None):
        raise UnimixerError("give what to delete: --unit ID, or --before DAY, one of them")
    before = None if options.before is None else time_us(options.before, "--before")
    with opened(options.database) as events:
        if before is not None:
            counts = events.delete_before(before)
        else:
            each = [events.delete_unit(unit) for unit in options.unit or ()]
            counts = {table: sum(one[table] for one in each) for table in each[0]}
    text = ", ".join(f"{count:,} {table}" for table, count in counts.items())
    emit({"database": events.name, **counts}, options.as_json, lambda: print(f"{events.name}: deleted {text}"))
