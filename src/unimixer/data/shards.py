"""Blocks of rows dealt to shards, so that several processes read a split without a row in common."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from unimixer.data.dataset import SplitSummary
from unimixer.errors import UnimixerError

Blocks = NDArray[np.int64]
"""``(blocks, 3)``: part, first row, last row + 1."""


def blocks_of(summary: SplitSummary, block_rows: int) -> Blocks:
    """All rows of a split in blocks of neighbours; none reaches over two parts."""
    found = [
        (number, start, min(start + block_rows, part["rows"]))
        for number, part in enumerate(summary.parts)
        for start in range(0, part["rows"], block_rows)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def deal(blocks: Blocks, num_shards: int) -> list[NDArray[np.int64]]:
    """Numbers of the blocks of each shard: every block goes to the shard that has fewest rows by then.

    Shards differ by a block at most, and those of a log in the order of time all reach over the whole of it.
    """
    if num_shards == 1:
        return [np.arange(len(blocks))]
    rows = [(0, shard) for shard in range(num_shards)]
    hands: list[list[int]] = [[] for _ in range(num_shards)]
    for number, size in enumerate((blocks[:, 2] - blocks[:, 1]).tolist()):
        count, shard = rows[0]
        hands[shard].append(number)
        heapq.heapreplace(rows, (count + size, shard))
    return [np.array(hand, dtype=np.int64) for hand in hands]


def batch_share(batch_size: int, shard: int, num_shards: int) -> int:
    """Rows that a shard gives to a batch; shares add up to the batch and differ by one at most."""
    if batch_size < num_shards:
        raise UnimixerError(
            f"batch_size={batch_size} is smaller than the {num_shards} shards that it takes rows from; "
            "it must be at least their number"
        )
    return batch_size // num_shards + (shard < batch_size % num_shards)
