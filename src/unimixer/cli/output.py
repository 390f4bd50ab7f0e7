"""Options that verbs share, and their output: tables for people, or one JSON object as the last line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, get_annotations, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from rich.table import Table

from unimixer.errors import missing_packages
from unimixer.progress import plain_console

Options = TypeVar("Options")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of output.")]
Separator = Annotated[
    str | None, typer.Option("--separator", help="Text between two fields of CSV (default: as the schema says).")
]
Run = Annotated[Path, typer.Argument(help="A run folder.")]
Data = Annotated[Path | None, typer.Option("--data", help="The dataset, if it moved since the training.")]
Harden = Annotated[
    str | None, typer.Option("--harden", help="Make learned mixings hard first: permutation, or top-K such as top-4.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]


def takes(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make a command of a function with one options object: every field of its dataclass is an option."""
    hints = get_type_hints(options, include_extras=True)
    # a class lists its own fields before those that it inherits
    names = dict.fromkeys(name for cls in options.__mro__ for name in get_annotations(cls))
    fields = signature(options).parameters
    parameters = [fields[name].replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY) for name in names]

    def decorate(run: Callable[[Options], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            run(options(**values))

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__annotations__ = hints
        vars(command)["__signature__"] = Signature(parameters)
        return command

    return decorate


def emit(values: Mapping[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print ``values`` as JSON, or call ``show`` for people."""
    if as_json:
        print(json.dumps(dict(values), default=str))
    else:
        show()


def say_what_is_not_drawn(again: str) -> None:
    """Say before the work which outputs are left out without the packages that draw, and how to make them later."""
    missing = missing_packages("report")
    if missing:
        print(
            f"no page and no pictures: {', '.join(missing)} missing; rows and Markdown are written all the same; "
            f"later: pip install 'unimixer[report]', then {again}",
            file=sys.stderr,
        )


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns are text, the others are numbers aligned to the right."""
    grid = Table()
    for number, name in enumerate(columns):
        grid.add_column(name, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else str(cell) for cell in row))
    console = plain_console()
    least = grid.__rich_measure__(console, console.options).minimum
    # a pipe has no width: give the table all it needs; a terminal that is too narrow folds lines
    printer = plain_console(width=max(least, console.width if console.is_terminal else 200))
    if title is not None:  # on its own: a title inside a narrow table would be folded
        printer.print(title, style="italic", soft_wrap=True)
    printer.print(grid)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Format a table as Markdown."""
    rule = ["---" if number < left else "---:" for number in range(len(columns))]
    lines = [columns, rule, *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
