from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unimixer.data.dataset import Dataset
from unimixer.data.describe import describe_dataset
from unimixer.data.encoding.rows import Rows
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters.synthetic import _frame, load
from unimixer.data.raw.tables import Chunk
from unimixer.data.stream import SEED_BLOCKS, StreamEncoder, StreamLoader, training_loader
from unimixer.data.synthetic import BLOCK_ROWS, WideWorld, WorldConfig
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch

OPTIONS: dict[str, Any] = {
    "rows": BLOCK_ROWS,
    "fields": 8,
    "ids": 5,
    "users": 60,
    "items": 50,
    "pairs": 4,
    "triples": 2,
    "quads": 1,
    "seed": 4,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Worlds this small gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stream"
    prepare(load(**OPTIONS, soft_labels=True, stream=True), path)
    return path


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return Dataset(folder)


def stream(dataset: Dataset, **settings: Any) -> Loader:
    return training_loader(dataset, **{"max_steps": 20, "step_batches": 1, "batch_size": 3_000, **settings})


def same(one: Batch, other: Batch) -> bool:
    assert one.labels is not None
    assert other.labels is not None
    return torch.equal(one.sparse_ids, other.sparse_ids) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("soft_labels", [True, False])
def test_a_drawn_block_is_encoded_to_the_last_bit_as_its_written_rows_would_be(
    tmp_path: Path, soft_labels: bool
) -> None:
    prepared = prepare(load(**OPTIONS, soft_labels=soft_labels, stream=True), tmp_path / "one")
    world = WideWorld(WorldConfig(**prepared.manifest["stream"]))
    drawn = StreamEncoder(prepared.transform, world).block(7)
    written = prepared.transform.encode(Chunk(_frame(world.block(7)), "world"), labels=True)
    assert drawn.columns().keys() == written.columns().keys()
    for (name, one), other in zip(drawn.columns().items(), written.columns().values(), strict=True):
        assert isinstance(one, np.ndarray)
        assert isinstance(other, np.ndarray)
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes()), name


def test_a_stream_trains_on_new_rows_in_the_order_of_its_blocks(dataset: Dataset) -> None:
    loader = stream(dataset)
    assert isinstance(loader, StreamLoader)
    assert (len(loader), loader.num_rows) == (20, 60_000)
    batches = list(loader.batches())
    assert [len(batch) for batch in batches] == [3_000] * 20
    blocks = [loader.encoder.block(number) for number in range(1, 9)]  # block 0 is the log
    expected = dataset.transform.batch(Rows.concatenate(blocks))
    assert torch.equal(torch.cat([batch.sparse_ids for batch in batches]), expected.sparse_ids[:60_000])
    assert expected.labels is not None
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert torch.equal(labels, expected.labels[:60_000])


@pytest.mark.parametrize("settings", [{}, {"num_workers": 0}, {"shards": (1,), "num_shards": 3}, {"seed": 5}])
def test_a_stream_continues_exactly_from_any_number_of_batches(dataset: Dataset, settings: dict[str, Any]) -> None:
    loader = stream(dataset, **settings)
    batches = list(loader.batches())
    for start in (1, 2, 13, 19):
        again = list(stream(dataset, **settings).batches(start=start))
        assert len(again) == 20 - start
        assert all(same(a, b) for a, b in zip(again, batches[start:], strict=True))


def test_shards_share_out_every_batch_and_draw_different_blocks(dataset: Dataset) -> None:
    shares = [list(stream(dataset, shards=(shard,), num_shards=2).batches()) for shard in range(2)]
    together = list(stream(dataset, shards=(0, 1), num_shards=2).batches())
    for first, second, both in zip(*shares, together, strict=True):
        assert torch.equal(torch.cat([first.sparse_ids, second.sparse_ids]), both.sparse_ids)
        assert not torch.equal(first.sparse_ids, second.sparse_ids)


def test_a_batch_may_be_larger_than_a_block(dataset: Dataset) -> None:
    loader = stream(dataset, batch_size=2 * BLOCK_ROWS + 5, max_steps=2)
    assert [len(batch) for batch in loader.batches()] == [2 * BLOCK_ROWS + 5] * 2


def test_seeds_have_rows_of_their_own(dataset: Dataset) -> None:
    one, two = (next(stream(dataset, seed=seed).batches()) for seed in (0, 1))
    assert not same(one, two)
    loader = stream(dataset, seed=1)
    assert isinstance(loader, StreamLoader)
    assert loader.encoder.first_block(1) - loader.encoder.first_block(0) == SEED_BLOCKS


def test_a_stream_needs_a_number_of_steps(dataset: Dataset) -> None:
    with pytest.raises(UnimixerError, match=r"is a stream, which has no end, so training needs training\.max_steps"):
        stream(dataset, max_steps=None)


def test_a_world_that_is_narrow_or_drifts_cannot_be_a_stream() -> None:
    for options in ({"rows": 1_000}, {**OPTIONS, "drift": 0.5}):
        with pytest.raises(UnimixerError, match="stream=true needs a wide world without drift"):
            load(**options, stream=True)


def test_a_description_says_that_the_dataset_is_a_stream(dataset: Dataset, toy_dataset: Dataset) -> None:
    assert describe_dataset(dataset)["stream"]
    assert not describe_dataset(toy_dataset)["stream"]
