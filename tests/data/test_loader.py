"""The loader: every row once, in an order that depends on the seed and the epoch and on nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toy import tables_of, toy_schema

from unimixer.data import loader as module
from unimixer.data import write_dataset
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch

ROWS = 330
"""Training rows; three parts of at most 128, in blocks of 16, of which 5 are shuffled together."""


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Rows that carry their number n: as category, as number, as user (n % 50), as list (n % 3 times), as label."""
    n = np.arange(ROWS + 40)
    frame = pl.DataFrame(
        {
            "user_id": n % 50,
            "item_id": n,
            "n": n,
            "list": [[str(i)] * (i % 3) for i in n],
            "label": n % 2,
            "w": n * 2.0,
        }
    )
    features = [
        {"name": "n", "kind": "categorical", "domain": "context"},
        {"name": "number", "kind": "numeric", "domain": "context", "source": "n"},
        {"name": "list", "kind": "sequence", "domain": "context"},
        {"name": "user_id", "kind": "categorical", "domain": "user"},
        {"name": "seen", "kind": "sequence", "domain": "behaviour", "history": "past", "source": "item_id"},
    ]
    schema = toy_schema(
        keys={"user": "user_id", "item": "item_id"},
        labels=[{"name": "label"}],
        weight="w",
        split={"by": "quantile", "validation": ROWS / (ROWS + 40), "test": (ROWS + 20) / (ROWS + 40)},
        histories=[{"name": "past", "max_length": 4}],
        features=features,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_dataset, "PART_ROWS", 128)
        dataset = prepare(tables_of(schema, frame), tmp_path_factory.mktemp("numbered") / "store")
    assert [part["rows"] for part in dataset.summary("train").parts] == [128, 128, 74]
    return dataset


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    monkeypatch.setattr(module, "WINDOW_BLOCKS", 5)


def load(dataset: Dataset, split: str = "train", **options: Any) -> Loader:
    return Loader(dataset, split, **{"batch_size": 32, "shuffle": True, "num_workers": 0, **options})


def numbers(batches: Iterator[Batch]) -> list[int]:
    """The numbers of the rows, in the order of the batches."""
    return [int(n) for batch in batches for n in batch.dense_features[:, 0]]


def equal(a: Batch, b: Batch) -> bool:
    pairs = zip([*a.inputs().values(), a.labels, a.users], [*b.inputs().values(), b.labels, b.users], strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 80, 100, 330, 1_000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_row_once_and_a_smaller_last_batch(
    numbered: Dataset, batch_size: int, shuffle: bool
) -> None:
    loader = load(numbered, batch_size=batch_size, shuffle=shuffle)
    batches = list(loader.batches())
    assert sorted(numbers(iter(batches))) == list(range(ROWS))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == len(loader)
    assert sizes[:-1] == [batch_size] * (len(loader) - 1)
    assert sizes[-1] == ROWS - sum(sizes[:-1]) > 0


def test_without_shuffling_the_order_is_that_of_the_log(numbered: Dataset) -> None:
    assert numbers(load(numbered, shuffle=False).batches(epoch=3)) == list(range(ROWS))
    assert numbers(load(numbered, "validation", shuffle=False).batches()) == list(range(ROWS, ROWS + 20))
    assert numbers(load(numbered, "test", shuffle=False).batches()) == list(range(ROWS + 20, ROWS + 40))


def test_the_order_depends_on_the_seed_and_the_epoch_alone(numbered: Dataset) -> None:
    first = numbers(load(numbered, seed=1).batches(epoch=2))
    assert numbers(load(Dataset(numbered.folder), seed=1).batches(epoch=2)) == first
    assert numbers(load(numbered, seed=1, batch_size=7).batches(epoch=2)) == first
    others = [numbers(load(numbered, seed=s).batches(epoch=e)) for s, e in ((1, 1), (2, 2), (2, 1))]
    assert all(a != b for a, b in pairwise([first, *others]))


def test_earlier_epochs_need_not_be_read(numbered: Dataset) -> None:
    loader = load(numbered)
    list(loader.batches(epoch=0))
    assert numbers(loader.batches(epoch=1)) == numbers(load(numbered).batches(epoch=1))


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_workers_change_no_batch(numbered: Dataset, num_workers: int, shuffle: bool) -> None:
    alone = list(load(numbered, shuffle=shuffle).batches(epoch=1))
    helped = list(load(numbered, shuffle=shuffle, num_workers=num_workers).batches(epoch=1))
    assert len(alone) == len(helped)
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("batch_size", [7, 32, 100])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_where_it_stopped(numbered: Dataset, batch_size: int, num_workers: int) -> None:
    loader = load(numbered, batch_size=batch_size, num_workers=num_workers)
    whole = list(loader.batches(epoch=1))
    for start in range(len(loader) + 2):
        rest = list(loader.batches(epoch=1, start=start))
        assert len(rest) == len(whole[start:])
        assert all(equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_rows_are_shuffled_over_the_whole_log_and_inside_a_window(numbered: Dataset) -> None:
    order = numbers(load(numbered).batches())
    window = order[:80]
    assert len({n // 16 for n in window}) >= 5  # blocks from everywhere ...
    assert max(window) - min(window) > 150
    assert [n for n in window if n // 16 == window[0] // 16] != sorted(n for n in window if n // 16 == window[0] // 16)
    assert sum(abs(a - b) == 1 for a, b in pairwise(window)) < 10  # ... and neighbours no longer stand together


def test_every_epoch_has_windows_of_other_blocks(numbered: Dataset) -> None:
    first = [{n // 16 for n in numbers(load(numbered).batches(epoch=e))[:64]} for e in range(4)]
    assert all(a != b for a, b in pairwise(first))


def test_every_window_has_a_permutation_of_its_own(numbered: Dataset) -> None:
    loader = load(numbered)
    windows = [loader._row_order(0, window, 80).tolist() for window in range(3)]
    assert all(a != b for a, b in pairwise(windows))
    order = numbers(loader.batches())
    blocks = loader._block_order(0)[:10]
    rows = np.concatenate([np.arange(*(np.array([0, 128, 256])[p] + [a, b])) for p, a, b in loader._blocks[blocks]])
    assert order[:160] == [*rows[windows[0]], *rows[80:][windows[1]]]


def test_everything_in_a_row_stays_together(numbered: Dataset) -> None:
    rows = 0
    for batch in load(numbered, batch_size=17, num_workers=2).batches():
        assert batch.labels is not None
        assert batch.weights is not None
        assert batch.users is not None
        vocabularies = numbered.transform.vocabularies
        categories = ["", "", *vocabularies["n"].texts]
        listed = ["", "", *vocabularies["list"].texts]
        seen = ["", "", *vocabularies["seen"].texts]
        users = ["", "", *numbered.transform.users.index.keys]
        names = [f.name for f in numbered.transform.spec.ids]
        for row, n in enumerate(batch.dense_features[:, 0].int().tolist()):
            rows += 1
            assert categories[batch.sparse_ids[row, names.index("n")]] == str(n)
            assert batch.labels[row].tolist() == [n % 2]
            assert batch.weights[row] == 2 * n
            assert users[batch.users[row]] == str(n % 50)
            assert [listed[v] for v in sequence(batch, "list", row)] == [str(n)] * (n % 3)
            past = [str(p) for p in range(n % 50, n, 50)][-4:]
            assert [seen[v] for v in sequence(batch, "past", row)] == past
    assert rows == ROWS


def sequence(batch: Batch, group: str, row: int) -> list[int]:
    first, last = batch.sequence_offsets[group][row : row + 2].tolist()
    return batch.sequence_values[group][first:last, 0].tolist()


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_error_in_a_worker_reaches_the_consumer(
    numbered: Dataset, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    loader = load(numbered, num_workers=num_workers)
    assemble, calls = loader._assemble, []

    def fail(*arguments: Any) -> Batch:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("broken batch")
        return assemble(*arguments)

    monkeypatch.setattr(loader, "_assemble", fail)
    taken = []
    with pytest.raises(RuntimeError, match="broken batch"):
        taken.extend(loader.batches())
    assert len(taken) == len(calls) - 1 if num_workers == 0 else len(taken) <= 3


def test_a_damaged_part_reaches_the_consumer_through_the_workers(toy_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(toy_folder, tmp_path / "toy"))
    part = folder / "train" / "part-00000.arrow"
    part.write_bytes(bytes(reversed(part.read_bytes())))
    with pytest.raises(UnimixerError, match="damaged"):
        list(Loader(Dataset(folder), "train", batch_size=8, num_workers=2).batches())


def test_a_consumer_that_stops_early_leaves_no_thread(numbered: Dataset) -> None:
    batches = load(numbered, batch_size=2, num_workers=3).batches()
    next(batches)
    assert any(thread.name.startswith("unimixer-loader") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("unimixer-loader") for thread in threading.enumerate())


def test_memory_holds_a_few_windows_only(numbered: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of the log that is read stays a window ahead of the batches that are taken."""
    loader = load(numbered, batch_size=20)
    window, read = loader._window, []
    monkeypatch.setattr(loader, "_window", lambda blocks: read.append(len(blocks)) or window(blocks))
    for taken, _ in enumerate(loader.batches(), 1):
        assert sum(read) * 16 <= taken * 20 + 80


def test_a_wrong_number_is_named(numbered: Dataset) -> None:
    with pytest.raises(UnimixerError, match="batch_size=0 must be greater than 0"):
        load(numbered, batch_size=0)
    with pytest.raises(UnimixerError, match="num_workers=-1 must be 0 or more"):
        load(numbered, num_workers=-1)
    with pytest.raises(UnimixerError, match="unknown split 'trian'; did you mean 'train'"):
        load(numbered, "trian")


def test_every_loop_over_the_loader_is_the_next_epoch(numbered: Dataset) -> None:
    loader = Loader(numbered, "train", batch_size=64, shuffle=True, num_workers=0)
    for epoch in range(2):
        looped = torch.cat([batch.sparse_ids for batch in loader])
        assert torch.equal(looped, torch.cat([batch.sparse_ids for batch in loader.batches(epoch)]))
    for _ in loader:
        break
    assert loader.epoch == 3
