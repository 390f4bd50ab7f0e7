"""What a verb prints: a table for people, or one JSON object as the last line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of output.")]
Separator = Annotated[
    str | None,
    typer.Option("--separator", help="What stands between two fields of CSV (default: as the schema says)."),
]


def emit(values: Mapping[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print ``values`` as JSON, or call ``show`` for people."""
    if as_json:
        print(json.dumps(dict(values), default=str))
    else:
        show()


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns are text, the others numbers set to the right."""
    from rich.console import Console
    from rich.table import Table

    grid = Table()
    for number, name in enumerate(columns):
        grid.add_column(name, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console()
    # in a pipe there is no width to fit into: give the table all it needs
    printer = Console(width=None if console.is_terminal else 200)
    if title is not None:  # on its own: a title inside a narrow table would be folded
        printer.print(title, style="italic", highlight=False)
    printer.print(grid)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """The same as a Markdown table."""
    rule = ["---" if number < left else "---:" for number in range(len(columns))]
    lines = [columns, rule, *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
