"""Stream batches of a split: shuffle windows of blocks, assemble batches ahead of time, restore any position."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from unimixer.data.dataset import Dataset, SplitSummary
from unimixer.data.encoding.rows import Rows
from unimixer.errors import UnimixerError, check_positive
from unimixer.features.batch import Batch

BLOCK_ROWS = 4_096
"""Neighbouring impressions that are read together."""
WINDOW_BLOCKS = 32
"""Blocks that are shuffled together; memory holds a few windows whatever the number of rows."""

Blocks = NDArray[np.int64]
"""``(blocks, 3)``: part, first row, last row + 1."""

Piece = tuple[Rows, NDArray[np.int64]]
"""Rows of a window and the positions in it that make a batch."""


class Loader:
    """Streams the batches of one split: ``for batch in loader`` is an epoch, the next loop is the next epoch.

    The order is a function of ``(seed, epoch)`` alone: blocks of neighbouring rows are permuted, then the rows inside
    a window of blocks. The number of workers changes the speed and nothing else, and a position is just the number of
    batches that were taken, so a run continues where it stopped.

    Where several processes share a split, its blocks are assigned to ``num_shards`` shards and each is shuffled by
    itself; a batch takes its share of rows from every shard. A process reads some of the shards and gets that part of
    each batch. All processes see equally many batches: a shard that ran out adds no rows to the last ones.

    Args:
        dataset: prepared data.
        split: ``train``, ``validation`` or ``test``.
        batch_size: rows a batch, over all shards; the last batches of an epoch may be smaller.
        shuffle: seeded block shuffle; otherwise the order of the log.
        seed: of the shuffle.
        num_workers: threads that assemble batches ahead of the consumer; 0 assembles them on demand.
        shards: the shards to read.
        num_shards: how many there are.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 1,
        shards: Sequence[int] = (0,),
        num_shards: int = 1,
    ) -> None:
        check_positive(batch_size=batch_size, num_shards=num_shards)
        if num_workers < 0:
            raise UnimixerError(f"num_workers={num_workers} must be 0 or more")
        self.dataset, self.split, self.batch_size = dataset, split, batch_size
        self.shuffle, self.seed, self.num_workers = shuffle, seed, num_workers
        self.shards, self.num_shards = tuple(shards), num_shards
        self.transform = dataset.transform
        self.num_rows = dataset.summary(split).rows
        self._blocks = blocks_of(dataset.summary(split), self._block_rows())
        self._assigned = assign_blocks(self._blocks, num_shards)
        self._shares = [batch_share(batch_size, shard, num_shards) for shard in range(num_shards)]
        lengths = [
            -(-_count(self._blocks[own]) // share) for own, share in zip(self._assigned, self._shares, strict=True)
        ]
        self._length = max(lengths)
        self.epoch = 0
        """The epoch of the next ``for batch in loader``."""

    def _block_rows(self) -> int:
        """Return the rows of a block, few enough that shards of a small split have nearly equal sizes."""
        return BLOCK_ROWS if self.num_shards == 1 else max(1, min(BLOCK_ROWS, self.num_rows // (8 * self.num_shards)))

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of ``epoch``, and count it, also where the loop ends early."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self.batches(epoch)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch number ``start`` on."""
        steps = self._steps(epoch, start)
        if not self.num_workers:
            yield from (self._assemble(pieces) for pieces in steps)
            return
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="unimixer-loader") as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for pieces in steps:
                    ahead.append(pool.submit(self._assemble, pieces))
                    if len(ahead) > 2 * self.num_workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _assemble(self, pieces: list[Piece]) -> Batch:
        taken = [rows.take(order) for rows, order in pieces]
        return self.transform.batch(taken[0] if len(taken) == 1 else Rows.concatenate(taken))

    def _steps(self, epoch: int, start: int) -> Iterator[list[Piece]]:
        """Yield the pieces of each batch from the shards read here; a batch without any gets one piece of no rows."""
        streams = [self._pieces(shard, epoch, start) for shard in self.shards]
        nothing = np.empty(0, dtype=np.int64)
        empty: Piece | None = None
        for _ in range(start, self._length):
            pieces = [piece for stream in streams for piece in islice(stream, 1)]
            if not pieces:
                empty = empty or (self._window(self._blocks[:1]), nothing)
                pieces = [empty]
            yield pieces

    def _pieces(self, shard: int, epoch: int, start: int) -> Iterator[Piece]:
        """Yield the pieces of a shard, one for each batch."""
        share, blocks = self._shares[shard], self._blocks[self._assigned[shard]]
        order = self._block_order(epoch, shard)
        sizes = (blocks[order, 2] - blocks[order, 1]) if len(order) else np.zeros(0, dtype=np.int64)
        skip = start * share
        left: Rows | None = None
        left_order = np.empty(0, dtype=np.int64)
        for number, first in enumerate(range(0, len(order), WINDOW_BLOCKS)):
            window = order[first : first + WINDOW_BLOCKS]
            count = int(sizes[first : first + WINDOW_BLOCKS].sum())
            if skip >= count:
                skip -= count
                continue
            rows, positions = self._window(blocks[window]), self._row_order(epoch, number, count, shard)[skip:]
            skip = 0
            if left is not None and len(left_order):
                rows = Rows.concatenate([left.take(left_order), rows])
                positions = np.concatenate([np.arange(len(left_order)), positions + len(left_order)])
            full = len(positions) // share * share
            for begin in range(0, full, share):
                yield rows, positions[begin : begin + share]
            left, left_order = rows, positions[full:]
        if left is not None and len(left_order):
            yield left, left_order

    def _window(self, blocks: Blocks) -> Rows:
        """Copy the rows of some blocks out of their parts; a part is unmapped again when its blocks are copied."""
        pieces: list[Rows] = []
        opened = -1
        for part, begin, end in blocks:
            if part != opened:
                rows, opened = self.dataset.part(self.split, int(part)), part
            pieces.append(rows.take(np.arange(begin, end)))
        return Rows.concatenate(pieces)

    def _block_order(self, epoch: int, shard: int = 0) -> NDArray[np.int64]:
        count = len(self._assigned[shard])
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng((self.seed, epoch, *self._stream(shard))).permutation(count)

    def _row_order(self, epoch: int, window: int, count: int, shard: int = 0) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng((self.seed, epoch, window, *self._stream(shard))).permutation(count)

    def _stream(self, shard: int) -> tuple[int, ...]:
        """Return the numbers that make the random numbers of a shard differ from those of others."""
        return () if self.num_shards == 1 else (shard, self.num_shards, 0)


def _count(blocks: Blocks) -> int:
    return int((blocks[:, 2] - blocks[:, 1]).sum())


def blocks_of(summary: SplitSummary, block_rows: int) -> Blocks:
    """Cut all rows of a split into blocks of neighbours; none reaches over two parts."""
    blocks = [
        (number, start, min(start + block_rows, part["rows"]))
        for number, part in enumerate(summary.parts)
        for start in range(0, part["rows"], block_rows)
    ]
    return np.array(blocks, dtype=np.int64).reshape(-1, 3)


def assign_blocks(blocks: Blocks, num_shards: int) -> list[NDArray[np.int64]]:
    """Assign blocks to shards, each to the shard with the fewest rows so far; return each shard's block numbers.

    Shards differ by a block at most, and those of a log in the order of time all reach over the whole of it.
    """
    if num_shards == 1:
        return [np.arange(len(blocks))]
    rows = [(0, shard) for shard in range(num_shards)]
    assigned: list[list[int]] = [[] for _ in range(num_shards)]
    for number, size in enumerate((blocks[:, 2] - blocks[:, 1]).tolist()):
        count, shard = rows[0]
        assigned[shard].append(number)
        heapq.heapreplace(rows, (count + size, shard))
    return [np.array(numbers, dtype=np.int64) for numbers in assigned]


def batch_share(batch_size: int, shard: int, num_shards: int) -> int:
    """Return the rows that a shard gives to a batch; shares add up to the batch and differ by one at most."""
    if batch_size < num_shards:
        raise UnimixerError(
            f"batch_size={batch_size} is smaller than the {num_shards} shards that it takes rows from; "
            "it must be at least their number"
        )
    return batch_size // num_shards + (shard < batch_size % num_shards)
