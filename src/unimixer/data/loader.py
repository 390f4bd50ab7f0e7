"""The streaming loader: windows of shuffled blocks, batches assembled ahead of time, any position restorable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from unimixer.data.rows import Rows
from unimixer.data.store import Store
from unimixer.errors import UnimixerError, check_positive
from unimixer.features.batch import Batch

BLOCK_ROWS = 4_096
"""Neighbouring impressions that are read together."""
WINDOW_BLOCKS = 32
"""Blocks that are shuffled together; memory holds a few windows whatever the number of rows."""


class Loader:
    """Batches of one split.

    The order is a function of ``(seed, epoch)`` alone: blocks of neighbouring rows are permuted, then the rows inside
    a window of blocks. The number of workers changes the speed and nothing else, and a position is just the number of
    batches that were taken, so a run continues where it stopped.

    Args:
        store: prepared data.
        split: ``train``, ``validation`` or ``test``.
        batch_size: rows a batch; the last batch of an epoch may be smaller.
        shuffle: seeded block shuffle; otherwise the order of the log.
        seed: of the shuffle.
        num_workers: threads that assemble batches ahead of the consumer; 0 assembles them on demand.
    """

    def __init__(
        self, store: Store, split: str, *, batch_size: int, shuffle: bool = False, seed: int = 0, num_workers: int = 1
    ) -> None:
        check_positive(batch_size=batch_size)
        if num_workers < 0:
            raise UnimixerError(f"num_workers={num_workers} must be 0 or more")
        self.store, self.split, self.batch_size = store, split, batch_size
        self.shuffle, self.seed, self.num_workers = shuffle, seed, num_workers
        self.transform = store.transform
        parts = store.summary(split).parts
        # (part, first row, last row) of every block
        self._blocks = np.array(
            [
                (p, s, min(s + BLOCK_ROWS, part["rows"]))
                for p, part in enumerate(parts)
                for s in range(0, part["rows"], BLOCK_ROWS)
            ],
            dtype=np.int64,
        ).reshape(-1, 3)
        self.num_rows = store.summary(split).rows

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_rows // self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from batch number ``start`` on."""
        pieces = self._pieces(epoch, start)
        if not self.num_workers:
            yield from (self._assemble(rows, order) for rows, order in pieces)
            return
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="unimixer-loader") as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for rows, order in pieces:
                    ahead.append(pool.submit(self._assemble, rows, order))
                    if len(ahead) > 2 * self.num_workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _assemble(self, rows: Rows, order: NDArray[np.int64]) -> Batch:
        return self.transform.batch(rows.take(order))

    def _pieces(self, epoch: int, start: int) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Rows of a window and the positions in it that make a batch."""
        order = self._block_order(epoch)
        sizes = (self._blocks[order, 2] - self._blocks[order, 1]) if len(order) else np.zeros(0, dtype=np.int64)
        skip = start * self.batch_size
        left: Rows | None = None
        left_order = np.empty(0, dtype=np.int64)
        for number, first in enumerate(range(0, len(order), WINDOW_BLOCKS)):
            window = order[first : first + WINDOW_BLOCKS]
            count = int(sizes[first : first + WINDOW_BLOCKS].sum())
            if skip >= count:
                skip -= count
                continue
            rows, positions = self._window(window), self._row_order(epoch, number, count)[skip:]
            skip = 0
            if left is not None and len(left_order):
                rows = Rows.concatenate([left.take(left_order), rows])
                positions = np.concatenate([np.arange(len(left_order)), positions + len(left_order)])
            full = len(positions) // self.batch_size * self.batch_size
            for begin in range(0, full, self.batch_size):
                yield rows, positions[begin : begin + self.batch_size]
            left, left_order = rows, positions[full:]
        if left is not None and len(left_order):
            yield left, left_order

    def _window(self, blocks: NDArray[np.int64]) -> Rows:
        """Copy the rows of some blocks out of their parts; a part is unmapped again when its blocks are copied."""
        pieces: list[Rows] = []
        opened = -1
        for block in blocks:
            part, begin, end = self._blocks[block]
            if part != opened:
                rows, opened = self.store.part(self.split, int(part)), part
            pieces.append(rows.take(np.arange(begin, end)))
        return Rows.concatenate(pieces)

    def _block_order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(len(self._blocks))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self._blocks))

    def _row_order(self, epoch: int, window: int, count: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng((self.seed, epoch, window)).permutation(count)
