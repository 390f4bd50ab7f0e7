"""Training without end: batches that a wide world draws while a model trains on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.transform import Transform
from unimixer.data.label_settings import Label
from unimixer.data.loader import Loader, Piece
from unimixer.data.raw.tables import Chunk
from unimixer.data.synthetic import BLOCK_ROWS, WideWorld, WorldConfig
from unimixer.data.synthetic.wide import in_threads
from unimixer.errors import UnimixerError

SEED_BLOCKS = 1 << 20
"""Blocks between the first blocks of two training seeds: a seed has 8.6 billion rows of its own."""
SEEDS = 1 << 12


def is_stream(dataset: Dataset) -> bool:
    """Return whether training draws the rows of a dataset instead of reading its training part."""
    return "stream" in dataset.manifest


def check_steps(dataset: Dataset, max_steps: int | None) -> None:
    """Raise for a stream, which has no end, without a number of steps."""
    if is_stream(dataset) and max_steps is None:
        raise UnimixerError(
            f"{dataset.folder} is a stream, which has no end, so training needs training.max_steps; "
            "give it, for example training.max_steps=10000"
        )


def epoch_rows(dataset: Dataset, max_steps: int | None, step_rows: int) -> int:
    """Return the rows of an epoch: those of the training part, or of a stream those of all steps."""
    check_steps(dataset, max_steps)
    return max_steps * step_rows if is_stream(dataset) and max_steps is not None else dataset.summary("train").rows


def training_loader(dataset: Dataset, *, max_steps: int | None, step_batches: int, **settings: Any) -> Loader:
    """Return the loader of the training part, or of a stream.

    Args:
        dataset: prepared data.
        max_steps: steps of the run, which a stream needs.
        step_batches: batches of a step.
        settings: of :class:`~unimixer.data.loader.Loader`.
    """
    if not is_stream(dataset):
        return Loader(dataset, "train", **settings)
    step_rows = settings["batch_size"] * step_batches
    return StreamLoader(dataset, rows=epoch_rows(dataset, max_steps, step_rows), **settings)


class StreamLoader(Loader):
    """Draws the training batches of a stream; a row is drawn once, and none is one of the dataset's files.

    The blocks of a shard and of a seed are numbered, and each is drawn from its number alone. So a position is just
    the number of batches that were taken, and the rows are those that a written dataset would hold.

    Args:
        dataset: a dataset prepared with ``stream=true``.
        rows: rows of an epoch.
        settings: of :class:`~unimixer.data.loader.Loader`; the rows are independent draws, so there is no shuffle.
    """

    def __init__(self, dataset: Dataset, *, rows: int, **settings: Any) -> None:
        super().__init__(dataset, "train", **settings)
        self.num_rows, self._length = rows, -(-rows // self.batch_size)
        self.encoder = StreamEncoder(dataset.transform, WideWorld(WorldConfig(**dataset.manifest["stream"])))

    def _pieces(self, shard: int, epoch: int, start: int) -> Iterator[Piece]:
        """Yield the pieces of a shard, one for each batch, without end."""
        share = self._shares[shard]
        block, skip = divmod((epoch * self._length + start) * share, BLOCK_ROWS)
        numbers = (self.encoder.first_block(self.seed) + shard + n * self.num_shards for n in count(block))
        left: Rows | None = None
        with closing(in_threads(self.encoder.block, numbers, max(1, self.num_workers))) as blocks:
            for rows in blocks:
                positions = np.arange(skip, len(rows))
                skip = 0
                if left is not None:
                    rows, positions = Rows.concatenate([left, rows]), np.arange(len(left) + len(rows))
                full = len(positions) // share * share
                for begin in range(0, full, share):
                    yield rows, positions[begin : begin + share]
                left = rows.take(positions[full:]) if full < len(positions) else None


class StreamEncoder:
    """Encodes blocks of a world to the rows that the transform would make of their text, by tables of all ids.

    Args:
        transform: of the dataset.
        world: whose fields it encodes.
    """

    def __init__(self, transform: Transform, world: WideWorld) -> None:
        self.world, self.labels = world, transform.schema.labels
        keys = transform.schema.keys
        self._users = transform.entity_rows(
            transform.users, keys.user, _column("user_id", len(world.users()["user_id"]))
        )
        self._items = transform.entity_rows(
            transform.items, keys.item, _column("item_id", len(world.items()["item_id"]))
        )
        self._context = {
            feature.name: transform.id_column(feature, _column(feature.column, world.config.num_ids))
            for feature in transform.features("impressions")
        }
        self._log_blocks = -(-world.config.num_rows // BLOCK_ROWS)

    def first_block(self, seed: int) -> int:
        """Return the first block of a training seed; it comes after the log."""
        return self._log_blocks + seed % SEEDS * SEED_BLOCKS

    def block(self, number: int) -> Rows:
        """Draw and encode one block."""
        columns = {name: column.numpy() for name, column in self.world.block(number).items()}
        return Rows(
            users=self._users[columns["user_id"]],
            items=self._items[columns["item_id"]],
            times=columns["time"],
            ids=np.stack([rows[columns[name]] for name, rows in self._context.items()], axis=1),
            dense=np.empty((BLOCK_ROWS, 0), dtype=np.float32),
            labels=np.stack([columns[label.column] for label in self.labels], axis=1),
            truth=_truth(columns, self.labels),
        )


def _column(name: str, size: int) -> Chunk:
    """Return a raw column of all values."""
    return Chunk(pl.DataFrame({name: np.arange(size, dtype=np.int32)}), "synthetic world")


def _truth(columns: dict[str, NDArray[Any]], labels: tuple[Label, ...]) -> NDArray[np.float32] | None:
    names = [label.probability for label in labels if label.probability is not None]
    return np.stack([columns[name] for name in names], axis=1) if len(names) == len(labels) else None
