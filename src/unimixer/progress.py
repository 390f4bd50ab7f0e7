"""Report on work under way: bars on a terminal, plain lines in a pipe or a file, and the log of a run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from unimixer.errors import UnimixerError
from unimixer.io import disk_errors

if TYPE_CHECKING:
    from rich.console import Console

SILENCE = 30.0
"""Seconds without a line after which work that is not on a terminal reports its progress."""
LOOK = 1.0
"""Seconds between two looks at the time."""


class Bar(Protocol):
    """Accept reports of progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add ``done`` units; show ``note`` at the end of the bar."""


class Audience:
    """Print to standard error unless ``quiet``, and to a file, if there is one, in lines that begin with their time."""

    def __init__(self, log: Path | None = None, *, quiet: bool = False) -> None:
        self.log, self.quiet = log, quiet
        self.bars: list[Progress] = []
        self.last = 0.0

    @property
    def terminal(self) -> bool:
        """Whether a person watches standard error."""
        return sys.stderr.isatty()

    def tell(self, text: str, *, below_a_bar: bool = False) -> None:
        """Say a line; a terminal needs no line ``below_a_bar``, which repeats the bar."""
        self.last = time.monotonic()
        self.note(text)
        if not self.quiet and not (below_a_bar and self.terminal):
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Add a line to the file alone."""
        if self.log is not None:
            with disk_errors(self.log), self.log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}  {text}\n")


_PEOPLE = Audience()
_AUDIENCE: ContextVar[Audience | None] = ContextVar("audience", default=None)


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Make a console that prints texts as they are: no markup in brackets, no emoji between colons, no colors.

    Args:
        stderr: print to standard error.
        width: columns (default: those of the terminal).
    """
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


@contextmanager
def audience(log: Path | None = None, *, quiet: bool = False) -> Iterator[None]:
    """Send every line said inside to a file too, and to standard error unless ``quiet``.

    An error that ends the work is a line of the file; the caller who catches it prints it.
    """
    own = Audience(log, quiet=quiet)
    token = _AUDIENCE.set(own)
    try:
        yield
    except Exception as error:
        with suppress(UnimixerError, OSError):
            own.note(f"error: {error}" if isinstance(error, UnimixerError) else f"error: {error!r}")
        raise
    finally:
        _AUDIENCE.reset(token)


def say(text: str, *, below_a_bar: bool = False) -> None:
    """Say a line to the current audience, see :meth:`Audience.tell`."""
    (_AUDIENCE.get() or _PEOPLE).tell(text, below_a_bar=below_a_bar)


def note(text: str) -> None:
    """Say a choice of the program that is no mistake, as data that is left out."""
    say(f"note: {text}")


class Progress:
    """Count the units of some work and its time."""

    def __init__(self, description: str, total: int | None, unit: str, done: int) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.first = self.done = done
        self.since = time.monotonic()

    def line(self) -> str:
        """Write the work in one line: name, amount, speed, time left."""
        seconds = time.monotonic() - self.since
        if not self.unit:
            return f"{self.description}: {duration(seconds)} so far"
        speed = (self.done - self.first) / max(seconds, 1e-9)
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        parts = [f"{self.description}: {count} {self.unit}", f"{speed:,.{0 if speed >= 10 else 1}f} {self.unit}/s"]
        if self.total is not None and speed:
            parts.append(f"about {duration(max(0, self.total - self.done) / speed)} left")
        return ", ".join(parts)


@contextmanager
def progress_bar(description: str, total: int | None, *, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
    """Show a bar on standard error if it is a terminal; elsewhere say a line after a while of silence.

    Args:
        description: of the work.
        total: number of units, if it is known.
        unit: name of a unit; empty for work that is not counted.
        done: number of units that are already done.
    """
    people, progress = _AUDIENCE.get() or _PEOPLE, Progress(description, total, unit, done)
    with ExitStack() as stack:
        bar: Bar | None = None
        if people.terminal and not people.quiet:
            bar = stack.enter_context(_draw(progress))
        if people.log is not None or (bar is None and not people.quiet):
            stack.enter_context(_report(progress, people))

        def advance(done: int, note: str = "") -> None:
            progress.done += done
            if bar is not None:
                bar(done, note)

        yield advance


def stage(description: str) -> AbstractContextManager[Bar]:
    """Show a bar for work that is not counted."""
    return progress_bar(description, None, unit="")


@contextmanager
def _report(progress: Progress, people: Audience) -> Iterator[None]:
    """Report the innermost work after a while of silence, whether or not it moves."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            silent = time.monotonic() - max(people.last, progress.since)
            if people.bars[-1] is progress and silent >= SILENCE:
                with suppress(UnimixerError, OSError):  # the work itself raises for a full disk or a closed pipe
                    people.tell(progress.line(), below_a_bar=True)

    people.bars.append(progress)
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        people.bars.remove(progress)


@contextmanager
def _draw(progress: Progress) -> Iterator[Bar]:
    """Draw a bar on a terminal."""
    from rich import progress as rich_progress

    count = "{task.completed:,.0f}/{task.total:,.0f} " if progress.total else "{task.completed:,.0f} "
    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        *([rich_progress.TextColumn(count + progress.unit)] if progress.unit else []),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}", markup=False),
    )
    with rich_progress.Progress(*columns, console=plain_console(stderr=True), transient=True) as bars:
        task = bars.add_task(progress.description, total=progress.total, completed=progress.done, note="")

        def advance(done: int, note: str = "") -> None:
            bars.advance(task, done)
            if note:
                bars.update(task, note=note)

        yield advance


def duration(seconds: float) -> str:
    """Format a time as people say it.

    Example:
        >>> duration(42), duration(600), duration(7300)
        ('42 s', '10 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
