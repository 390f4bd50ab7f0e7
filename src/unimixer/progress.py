"""What people are told on standard error: notes; and progress bars, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


def note(text: str) -> None:
    """Say on standard error what was taken, or left out, and is no mistake."""
    print(f"note: {text}", file=sys.stderr)


class Bar(Protocol):
    """Something that can be told about progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add ``done`` units; show ``note`` at the end of the line."""


@contextmanager
def progress_bar(description: str, total: int | None, *, unit: str = "rows") -> Iterator[Bar]:
    """Show a bar on standard error while it is a terminal; otherwise do nothing."""
    if not sys.stderr.isatty():
        yield lambda done, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(
            f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}" if total else f"{{task.completed:,.0f}} {unit}"
        ),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            progress.advance(task, done)
            if note:
                progress.update(task, note=note)

        yield advance
