"""Progress bars for people: on a terminal only, never in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Bar(Protocol):
    """Something that can be told about progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add ``done`` units; show ``note`` at the end of the line."""


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints texts as they are: no markup in brackets, no emoji between colons, no colors of its own.

    Args:
        stderr: print to standard error.
        width: columns (default: those of the terminal).
    """
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


@contextmanager
def progress_bar(description: str, total: int | None, *, unit: str = "rows") -> Iterator[Bar]:
    """Show a bar on standard error while it is a terminal; otherwise do nothing."""
    if not sys.stderr.isatty():
        yield lambda done, note="": None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(
            f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}" if total else f"{{task.completed:,.0f}} {unit}"
        ),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            progress.advance(task, done)
            if note:
                progress.update(task, note=note)

        yield advance
