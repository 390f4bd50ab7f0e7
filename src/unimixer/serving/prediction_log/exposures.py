"""Write exposures to the database of events, in the way of the prediction log: they wait while it is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unimixer.abtest.events import Events
from unimixer.abtest.records import Exposure, check_json, check_text
from unimixer.errors import UnimixerError
from unimixer.serving.prediction_log.record import Entry, LogSink, UnfitError


class ExposureSink(LogSink[Exposure]):
    """Write exposures; one that is written again is known by its request id.

    Args:
        events: the database, which is closed with the sink.
        repeated: told how many exposures had a known request id.
    """

    log, rows = "database of events", "exposures"

    def __init__(self, events: Events, repeated: Callable[[int], object] = int) -> None:
        super().__init__()
        self.name, self._events, self._repeated = events.name, events, repeated

    def write(self, entries: Sequence[Entry[Exposure]]) -> None:
        """See :meth:`LogSink.write`."""
        rows = [entry.answer for entry in entries]
        try:
            for row in rows:
                check_text(row.unit, "unit")
                check_json(row.positions, "positions", list)
                check_json(row.context, "context", dict)
        except UnimixerError as error:
            raise UnfitError(str(error)) from None
        added = self._events.add_exposures(rows)
        self._repeated(len(rows) - added)

    def close(self) -> None:
        """See :meth:`LogSink.close`."""
        self._events.close()
