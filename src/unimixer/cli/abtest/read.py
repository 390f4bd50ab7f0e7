"""``unimixer abtest read``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli.output import Json, emit, table, takes

if TYPE_CHECKING:
    from unimixer.abtest.analysis.reading import Reading
    from unimixer.abtest.events import Events

QUERY_S = 600.0
"""Seconds that a query of the analysis or a deletion may take."""
Specification = Annotated[Path, typer.Argument(metavar="SPEC", help="Specification of the experiment (YAML).")]
EventsAddress = Annotated[
    str | None, typer.Option("--database", help="Events: sqlite:///FILE or postgresql://user@host:port/db.")
]


@dataclass(frozen=True)
class ReadOptions:
    """Options of ``unimixer abtest read``."""

    specification: Specification
    database: EventsAddress = None
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Day: its events and later ones are not read (default: now).")
    ] = None
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the report as Markdown.")] = None
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as a page that needs no network.")] = (
        None
    )
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Write the reading as JSON.")] = None
    as_json: Json = False


@contextmanager
def opened(address: str) -> Iterator[Events]:
    """Open a database that exists, for statements that take long."""
    from unimixer.abtest.events import Events

    events = Events(address, timeout=QUERY_S, create=False)
    try:
        yield events
    finally:
        events.close()


@takes(ReadOptions)
def read(options: ReadOptions) -> None:
    """Read an experiment: checks first, effects with their intervals, then a verdict with its reasons.

    No effect is shown while a check fails. The exit code is 0 whatever the verdict is. Examples: unimixer abtest read
    spec.yaml --database sqlite:///events.sqlite · unimixer abtest read spec.yaml --database
    postgresql://reader@db/events --as-of 2026-03-15 --html report.html
    """
    from unimixer.abtest.analysis.reading import read_experiment
    from unimixer.abtest.specification import load_experiment
    from unimixer.errors import UnimixerError
    from unimixer.report.abtest import as_of_day, write_reading

    experiment = load_experiment(options.specification)
    if options.database is None:
        raise UnimixerError(
            "--database is missing; name the database of the events: sqlite:///FILE or postgresql://..."
        )
    until = None if options.as_of is None else as_of_day(options.as_of)
    with opened(options.database) as events:
        reading = read_experiment(experiment, events, as_of=until)
    written = write_reading(reading, markdown=options.markdown, html=options.html, json_file=options.json_file)
    values = reading.as_json() | {"files": [str(path) for path in written]}
    emit(values, options.as_json, lambda: _show(reading, written))


def _show(reading: Reading, written: list[Path]) -> None:
    from unimixer.report.abtest import check_table, effect_table, headline, segment_table

    print(headline(reading))
    for reason in reading.verdict.reasons:
        print(f"  {reason}")
    for step in reading.verdict.next_steps:
        print(f"  next: {step}")
    for title, content in (
        ("checks, in the order of reading", check_table(reading)),
        ("effects", effect_table(reading)),
        ("segments (they decide nothing)", segment_table(reading)),
    ):
        if content.rows:
            table(title, content.columns, content.rows, left=max(content.text) + 1)
    for path in written:
        print(f"written: {path}")
