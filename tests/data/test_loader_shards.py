"""Rows assigned to shards: every row once, in batches that do not depend on how many processes read them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimixer.data.dataset import Dataset, SplitSummary
from unimixer.data.loader import Loader, assign_blocks, batch_share, blocks_of
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch


def rows_of(batch: Batch) -> list[bytes]:
    """The rows of a batch, as something that can be compared."""
    assert batch.users is not None
    assert batch.labels is not None
    columns = torch.cat(
        [
            batch.sparse_ids.double(),
            batch.dense_features.double(),
            batch.users[:, None].double(),
            batch.labels.double(),
        ],
        1,
    )
    return sorted(row.numpy().tobytes() for row in columns)


def loader(dataset: Dataset, shards: range, num_shards: int = 6, **options: object) -> Loader:
    given = {"batch_size": 100, "shuffle": True, "seed": 3, "num_workers": 0, **options}
    return Loader(dataset, "train", shards=shards, num_shards=num_shards, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("start", [0, 7])
def test_processes_share_the_batches_that_one_reads(processes: int, start: int, toy_dataset: Dataset) -> None:
    whole = list(loader(toy_dataset, range(6)).batches(1, start))
    parts = [list(loader(toy_dataset, range(rank, 6, processes)).batches(1, start)) for rank in range(processes)]
    assert len({len(part) for part in parts} | {len(whole)}) == 1
    for number, batch in enumerate(whole):
        assert rows_of(batch) == sorted(row for part in parts for row in rows_of(part[number]))


def test_an_epoch_has_every_row_once_whatever_the_shards(toy_dataset: Dataset) -> None:
    expected = sorted(row for batch in Loader(toy_dataset, "train", batch_size=64).batches() for row in rows_of(batch))
    for num_shards in (1, 2, 5):
        found = [rows_of(b) for b in loader(toy_dataset, range(num_shards), num_shards).batches()]
        assert sorted(row for rows in found for row in rows) == expected


def test_the_order_is_that_of_seed_and_epoch(toy_dataset: Dataset) -> None:
    first = [rows_of(b) for b in loader(toy_dataset, range(1, 3)).batches(0)]
    assert first == [rows_of(b) for b in loader(toy_dataset, range(1, 3), num_workers=2).batches(0)]
    assert first != [rows_of(b) for b in loader(toy_dataset, range(1, 3)).batches(1)]
    assert first != [rows_of(b) for b in loader(toy_dataset, range(1, 3), seed=4).batches(0)]


def test_a_shard_that_ran_out_gives_batches_without_rows(toy_dataset: Dataset) -> None:
    sizes = [[len(b) for b in loader(toy_dataset, range(s, s + 1), 3, batch_size=60).batches()] for s in range(3)]
    assert len({len(own) for own in sizes}) == 1
    assert any(own[-1] == 0 for own in sizes)
    empty = next(b for b in loader(toy_dataset, range(1, 2), 3, batch_size=60).batches() if not len(b))
    padded = empty.padded()
    assert len(padded) == 1
    assert padded.weights is not None
    assert float(padded.weights.sum()) == 0.0
    assert {name: tuple(v.shape) for name, v in padded.sequence_values.items()} == {
        n: (0, v.shape[1]) for n, v in empty.sequence_values.items()
    }


def test_blocks_are_assigned_evenly_and_shares_add_up() -> None:
    summary = SplitSummary(parts=[{"rows": 1000}, {"rows": 333}], rows=1333)
    blocks = blocks_of(summary, 100)
    assigned = assign_blocks(blocks, 4)
    assert sorted(np.concatenate(assigned).tolist()) == list(range(len(blocks)))
    rows = [int((blocks[hand, 2] - blocks[hand, 1]).sum()) for hand in assigned]
    assert max(rows) - min(rows) <= 100
    assert [batch_share(10, shard, 4) for shard in range(4)] == [3, 3, 2, 2]
    with pytest.raises(UnimixerError, match="batch_size=3 is smaller than the 4 shards"):
        batch_share(3, 0, 4)
