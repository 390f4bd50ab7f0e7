"""A bundle that scores with the eager model of a run: what exported graphs are compared with."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Ragged
from unimixer.data.encoding.entities import EntityTable
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.encoding.layout import request_layout
from unimixer.data.encoding.transform import Transform
from unimixer.errors import UnimixerError
from unimixer.features.request import Request
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder


class EagerBundle:
    """The interface of a bundle on a run folder."""

    def __init__(self, run: Path) -> None:
        folder = RunFolder(run)
        self.model = load_ranker(folder)
        self.transform = without_entities(folder.transform)
        self.tasks = tuple(folder.recipe.tasks)
        self.version = hashlib.sha256(folder.best_weights.read_bytes()).hexdigest()[:12]
        self.layout = request_layout(self.transform.schema)
        self._lock = threading.Lock()

    def score(self, request: Request) -> NDArray[np.float32]:
        with self._lock, torch.no_grad():
            scores: NDArray[np.float32] = torch.sigmoid(self.model(request.batch())).numpy()
        return scores


def open_eager(folder: Path, *, threads: int | None = None) -> Any:
    """As ``open_bundle``, of a run folder."""
    if threads:
        torch.set_num_threads(threads)
    if not (folder / "config.yaml").exists():
        raise UnimixerError(f"{folder}: not a run")
    return EagerBundle(folder)


def without_entities(transform: Transform) -> Transform:
    """The transform as a bundle has it: no users, no items, no events."""

    def empty(table: EntityTable) -> EntityTable:
        lists = {name: Ragged(r.values[:0], np.zeros(3, dtype=np.int64)) for name, r in table.lists.items()}
        return EntityTable(type(table.index)(), table.ids[:2], table.dense[:2], lists, table.history_ids[:2])

    nothing = Ragged(np.zeros(0, dtype=np.int32), np.zeros(3, dtype=np.int64))
    histories = {name: HistoryIndex(nothing, nothing, h.max_length) for name, h in transform.histories.items()}
    return Transform(
        transform.schema,
        transform.vocabularies,
        transform.numerics,
        empty(transform.users),
        empty(transform.items),
        histories,
        transform.shadowed_columns,
    )
