"""Rank with a trained run, whose histories learn the clicks of every day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from unimixer.closed_loop.rankers import Ranker
from unimixer.closed_loop.sessions import Sessions, Visits
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor
from unimixer.training.run import RunFolder


def world_options(folder: Path) -> dict[str, Any]:
    """Return the options of the synthetic world that a run was trained on.

    Raises:
        UnimixerError: the run was trained on other data, or on a world without users and items.
    """
    origin = RunFolder(folder).environment["data"].get("origin") or {}
    options: dict[str, Any] = origin.get("options") or {}
    wide = options.get("fields") or options.get("num_fields")
    if origin.get("source") != "synthetic" or wide:
        data = "a wide world" if wide else origin.get("source") or "unknown data"
        raise UnimixerError(
            f"{folder}: the run was trained on {data}, and a simulation needs a world with users, items and histories; "
            "train on the dataset of: unimixer data prepare synthetic"
        )
    return {name: value for name, value in options.items() if name not in ("device", "soft_labels", "stream")}


class RunRanker(Ranker):
    """Rank with the best weights of a run, by its first task.

    Args:
        folder: the run.
    """

    def __init__(self, folder: Path) -> None:
        self.predictor = Predictor(folder, device="cpu")

    def scores(self, sessions: Sessions) -> Tensor:
        """Return logits."""
        length = sessions.candidates.shape[1]
        columns = {"user_id": sessions.user, "time": sessions.time, **sessions.context}
        frame = pl.DataFrame({name: column.repeat_interleave(length).numpy() for name, column in columns.items()})
        frame = frame.with_columns(pl.Series("item_id", sessions.candidates.flatten().numpy()))
        rows = Chunk(frame, f"sessions of day {sessions.day}")
        return self.predictor.logits(rows)[:, 0].view(sessions.candidates.shape)

    def observe(self, visits: Visits) -> None:
        """Add the clicks to the histories."""
        transform = self.predictor.transform
        row, position = (part.numpy() for part in visits.clicks.nonzero(as_tuple=True))
        users = transform.users.index.lookup(_texts(visits.user.numpy()[row]))
        items = transform.items.index.lookup(_texts(visits.items.numpy()[row, position]))
        times = visits.time.numpy()[row]
        histories = {name: _extended(history, users, items, times) for name, history in transform.histories.items()}
        self.predictor.transform = replace(transform, histories=histories)


def _texts(ids: np.ndarray[Any, np.dtype[np.int64]]) -> pl.Series:
    return pl.Series(ids).cast(pl.String)


def _extended(
    history: HistoryIndex,
    users: np.ndarray[Any, np.dtype[np.int32]],
    items: np.ndarray[Any, np.dtype[np.int32]],
    times: np.ndarray[Any, np.dtype[np.int64]],
) -> HistoryIndex:
    lengths = np.diff(history.items.offsets)
    owners = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return HistoryIndex.build(
        np.concatenate([owners, users]),
        np.concatenate([history.items.values, items]),
        np.concatenate([history.times.values, times]),
        num_users=len(lengths),
        max_length=history.max_length,
    )
