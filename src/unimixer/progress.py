"""What a person is told of work under way: bars on a terminal, plain lines in a pipe or a file, and a log of a run."""

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
"""Seconds without a line after which work that is not on a terminal says where it stands."""
LOOK = 1.0
"""Seconds between two looks at the time."""


class Bar(Protocol):
    """Something that can be told about progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add ``done`` units; show ``note`` at the end of the bar."""


class Audience:
    """Who is told: standard error unless ``quiet``, and a file, whose lines begin with their time, if there is one."""

    def __init__(self, log: Path | None = None, *, quiet: bool = False) -> None:
        self.log, self.quiet = log, quiet
        self.bars: list[Stand] = []
        self.last = 0.0

    @property
    def terminal(self) -> bool:
        """Whether a person watches."""
        return sys.stderr.isatty()

    def tell(self, text: str, *, below_a_bar: bool = False) -> None:
        """Say a line; one ``below_a_bar`` says what a bar shows, so a terminal needs no line."""
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
    """A console that prints texts as they are: no markup in brackets, no emoji between colons, no colors of its own.

    Args:
        stderr: print to standard error.
        width: columns (default: those of the terminal).
    """
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


@contextmanager
def audience(log: Path | None = None, *, quiet: bool = False) -> Iterator[None]:
    """Have all that is said inside go to a file too, and to standard error only if not ``quiet``.

    An error that ends the work is a line of the file; whoever meets it says it to people.
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
    """Say a line to whoever is told, see :meth:`Audience.tell`."""
    (_AUDIENCE.get() or _PEOPLE).tell(text, below_a_bar=below_a_bar)


def note(text: str) -> None:
    """Say what was taken, or left out, and is no mistake."""
    say(f"note: {text}")


class Stand:
    """Where some work stands."""

    def __init__(self, description: str, total: int | None, unit: str, done: int) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.first = self.done = done
        self.since = time.monotonic()

    def line(self) -> str:
        """The work in one line: what, how much of it, how fast, how long it still takes."""
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
    """Show a bar on standard error while it is a terminal; elsewhere say a line where nothing was said for a while.

    Args:
        description: of the work.
        total: units of it, where that is known.
        unit: what is counted; nothing is, where it is empty.
        done: units that are done already.
    """
    told, stand = _AUDIENCE.get() or _PEOPLE, Stand(description, total, unit, done)
    with ExitStack() as stack:
        bar: Bar | None = None
        if told.terminal and not told.quiet:
            bar = stack.enter_context(_drawn(stand))
        if told.log is not None or (bar is None and not told.quiet):
            stack.enter_context(_said(stand, told))

        def advance(done: int, note: str = "") -> None:
            stand.done += done
            if bar is not None:
                bar(done, note)

        yield advance


def stage(description: str) -> AbstractContextManager[Bar]:
    """A bar for work that is not counted."""
    return progress_bar(description, None, unit="")


@contextmanager
def _said(stand: Stand, told: Audience) -> Iterator[None]:
    """Say where the innermost work stands whenever nothing was said for a while, whether or not it moves."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            silent = time.monotonic() - max(told.last, stand.since)
            if told.bars[-1] is stand and silent >= SILENCE:
                with suppress(UnimixerError, OSError):  # the work itself meets a full disk or a closed pipe
                    told.tell(stand.line(), below_a_bar=True)

    told.bars.append(stand)
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        told.bars.remove(stand)


@contextmanager
def _drawn(stand: Stand) -> Iterator[Bar]:
    """A bar on a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    count = "{task.completed:,.0f}/{task.total:,.0f} " if stand.total else "{task.completed:,.0f} "
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *([TextColumn(count + stand.unit)] if stand.unit else []),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as progress:
        task = progress.add_task(stand.description, total=stand.total, completed=stand.done, note="")

        def advance(done: int, note: str = "") -> None:
            progress.advance(task, done)
            if note:
                progress.update(task, note=note)

        yield advance


def duration(seconds: float) -> str:
    """A time as people say it.

    Example:
        >>> duration(42), duration(600), duration(7300)
        ('42 s', '10 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
