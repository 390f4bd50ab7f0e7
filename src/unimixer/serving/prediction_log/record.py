"""What a prediction log holds: an answer with everything that a replay needs, and the place that takes answers."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.serving.encoding.request import RankCall


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


class Entry(NamedTuple):
    """An answer and its number. Callers choose request ids and may repeat them, so an answer has a key of its own."""

    number: int
    answer: PredictionRecord


class UnfitError(UnimixerError):
    """Answers that a place cannot hold, however often they are tried; the message has nothing of their content."""


class LogSink(ABC):
    """A place that keeps answers: one form of the prediction log.

    ``writer`` is new with every sink. With an entry's number it is the key of the answer, and a number that a writer
    lacks is an answer that was lost.
    """

    name: str
    """How messages name the place; without a password."""

    def __init__(self) -> None:
        self.writer = uuid.uuid4()

    @abstractmethod
    def write(self, entries: Sequence[Entry]) -> None:
        """Keep all of the entries or none. A write that may have failed is repeated, and adds nothing twice.

        Raises:
            UnfitError: the entries themselves cannot be kept.
            UnimixerError: the place refuses now; a later try may succeed.
        """

    def close(self) -> None:  # noqa: B027 (most places have nothing to give back)
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
