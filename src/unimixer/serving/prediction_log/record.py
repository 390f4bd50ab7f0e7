"""What a prediction log holds: an answer with everything that a replay needs, and the place that takes answers."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.serving.encoding.request import RankCall

AT_ONCE = 8
"""Answers that are converted at once."""


@dataclass(frozen=True)
class PredictionRecord:
    """One row of the prediction log."""

    request_id: str
    answered_ms: int
    time_ms: int
    model_version: str
    user: str | None
    user_revision: int
    call: RankCall
    items: list[str | None]
    item_revisions: NDArray[np.int64]
    tasks: tuple[str, ...]
    scores: NDArray[np.float32]
    hashes: dict[str, int]


class Record(Protocol):
    """A row of a log; the request id names it in messages."""

    @property
    def request_id(self) -> str:
        """Id of the request that it belongs to."""


Row = TypeVar("Row", bound=Record)


class Entry(NamedTuple, Generic[Row]):
    """An answer and its number. Callers choose request ids and may repeat them, so an answer has a key of its own."""

    number: int
    answer: Row


class UnfitError(UnimixerError):
    """Answers that a place cannot hold, however often they are tried; the message has nothing of their content."""


class LogSink(ABC, Generic[Row]):
    """A place that keeps answers: one form of the prediction log, or the exposures that go with them.

    ``writer`` is new with every sink. With an entry's number it is the key of the answer, and a number that a writer
    lacks is an answer that was lost.
    """

    name: str
    """How messages name the place; without a password."""
    log, rows = "prediction log", "answers"
    """How messages name the log, and its rows."""

    def __init__(self) -> None:
        self.writer = uuid.uuid4()
        self.give_way: Callable[[], object] = int
        """Waits while requests need the processors; see :meth:`pieces`."""

    def pieces(self, entries: Sequence[Entry[Row]]) -> Iterator[Sequence[Entry[Row]]]:
        """Yield a few entries at a time, at moments without a request: to convert them takes a processor for a while.

        Other threads run no Python while one piece is converted.
        """
        for start in range(0, len(entries), AT_ONCE):
            self.give_way()
            yield entries[start : start + AT_ONCE]

    @abstractmethod
    def write(self, entries: Sequence[Entry[Row]]) -> None:
        """Keep all of the entries or none. A write that may have failed is repeated, and adds nothing twice.

        Raises:
            UnfitError: the entries themselves cannot be kept.
            UnimixerError: the place refuses now; a later try may succeed.
        """

    def close(self) -> None:
        """Give connections back."""


def answer_time() -> int:
    """Now, in ms."""
    return int(time.time() * 1000)


def call_text(call: RankCall) -> str:
    """A call as JSON: the context, the columns that the call brought, and its time."""
    return json.dumps(
        {
            "context": call.context,
            "user_columns": call.user_columns,
            "item_columns": None if call.item_columns is None else list(call.item_columns),
            "now": call.now,
        }
    )
