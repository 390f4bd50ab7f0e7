"""Handle Ctrl-C and SIGTERM as requests: the run finishes its step, writes a checkpoint and stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from unimixer.errors import StoppedError

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopRequest(threading.Event):
    """An event that the first signal sets, with the number of that signal."""

    number: int | None = None

    def error(self, message: str) -> StoppedError:
        """Make the error that ends the work; without a number, another process received the signal."""
        return StoppedError(message, interrupted=self.number == signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Provide an event that the first signal sets; a second signal acts at once, as without this handler."""
    stopped = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        stopped.number = number
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in CAUGHT}
    for number in CAUGHT:
        signal.signal(number, ask)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
