"""One transform code path: raw rows give at prediction the very tensors that training saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toy import START, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.fit import fit
from unimixer.data.encoding.layout import resolve
from unimixer.data.encoding.transform import Transform
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.data.raw.passes import LogReader
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    named = {**batch.inputs(), "labels": batch.labels, "weights": batch.weights, "users": batch.users}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def assert_same(a: Batch, b: Batch) -> None:
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True, msg=name)


def lists(batch: Batch, group: str, column: int = 0) -> list[list[int]]:
    values = batch.sequence_values[group][:, column].tolist()
    return [values[a:b] for a, b in pairwise(batch.sequence_offsets[group].tolist())]


def log_of(tables: RawTables) -> pl.DataFrame:
    return pl.concat([chunk.frame for chunk in tables.impressions()])


def rows_of(frame: pl.DataFrame, transform: Transform) -> Iterator[tuple[str, Chunk]]:
    """The raw rows of every part, by the days that the schema of the small world names."""
    day = (pl.col("time_ms") - START) // 86_400_000
    for split, part in zip(SPLITS, (day < 6, (day >= 6) & (day < 8), day >= 8), strict=True):
        yield split, Chunk(frame.filter(part), "new.csv")


# ---- the contract ------------------------------------------------------------


def test_raw_rows_of_the_log_give_the_tensors_that_the_loader_gives(toy_dataset: Dataset) -> None:
    for split, chunk in rows_of(log_of(toy_tables()), toy_dataset.transform):
        (stored,) = Loader(toy_dataset, split, batch_size=10_000).batches()
        assert len(stored) == chunk.frame.height > 100
        assert_same(toy_dataset.transform.raw_batch(chunk, labels=True), stored)


def test_without_labels_the_inputs_are_the_same(toy_dataset: Dataset) -> None:
    chunk = next(toy_tables().impressions())
    batch = toy_dataset.transform.raw_batch(Chunk(chunk.frame.drop("is_click", "watch_s"), "new.csv"))
    assert batch.labels is None
    with_labels = toy_dataset.transform.raw_batch(chunk, labels=True)
    for name, tensor in batch.inputs().items():
        torch.testing.assert_close(tensor, with_labels.inputs()[name], rtol=0, atol=0, equal_nan=True)


def test_a_row_alone_gives_what_it_gives_among_others(toy_dataset: Dataset) -> None:
    frame = log_of(toy_tables()).tail(20)
    together = toy_dataset.transform.raw_batch(Chunk(frame, "new.csv"))
    for row in range(20):
        alone = toy_dataset.transform.raw_batch(Chunk(frame.slice(row, 1), "new.csv"))
        torch.testing.assert_close(alone.sparse_ids[0], together.sparse_ids[row])
        torch.testing.assert_close(
            alone.dense_features[0], together.dense_features[row], rtol=0, atol=0, equal_nan=True
        )
        for group in together.sequence_values:
            assert lists(alone, group)[0] == lists(together, group)[row]


def test_numbers_as_text_give_the_tensors_that_typed_numbers_give(tmp_path: Path) -> None:
    log, users, items = toy_frames(400)
    texts = log.with_columns(pl.col("time_ms", "position", "is_click", "watch_s").cast(pl.String).fill_null(""))
    typed = prepare(tables_of(toy_schema(), log, users, items), tmp_path / "typed")
    from_text = prepare(tables_of(toy_schema(), texts, users, items), tmp_path / "text")
    assert typed.hash == from_text.hash


def test_columns_that_the_log_has_beside_an_entity_table_change_nothing(tmp_path: Path) -> None:
    """A log that was joined with its items before: training reads the table, so prediction must too."""
    log, users, items = toy_frames(400)
    joined = log.with_columns(category=pl.lit("c1"), price=pl.lit(1.0), interests=pl.lit([["c1"]]).list.first())
    dataset = prepare(tables_of(toy_schema(), joined, users, items), tmp_path / "store")
    for split, chunk in rows_of(joined, dataset.transform):
        (stored,) = Loader(dataset, split, batch_size=10_000).batches()
        assert_same(dataset.transform.raw_batch(chunk, labels=True), stored)


@pytest.mark.parametrize("wide", [True, False])
def test_a_schema_with_one_feature_only_has_batches(tmp_path: Path, wide: bool) -> None:
    kind = {"kind": "numeric", "source": "price"} if wide else {"kind": "categorical", "source": "tab"}
    feature = {"name": "x", "domain": "item" if wide else "context", **kind}
    tables = toy_tables(400, features=[feature], histories=[])
    dataset = prepare(tables, tmp_path / "store")
    (batch,) = Loader(dataset, "train", batch_size=1_000).batches()
    assert (batch.sparse_ids.shape[1], batch.dense_features.shape[1]) == ((0, 1) if wide else (1, 0))
    for split, chunk in rows_of(log_of(tables), dataset.transform):
        (stored,) = Loader(dataset, split, batch_size=1_000).batches()
        assert_same(dataset.transform.raw_batch(chunk, labels=True), stored)


# ---- causality ---------------------------------------------------------------


def test_no_impression_sees_itself_or_anything_later(toy_dataset: Dataset) -> None:
    """A loop over the raw log, from its texts, against the sequences of the batch."""
    log, users, _ = toy_frames()
    transform = toy_dataset.transform
    batch = transform.raw_batch(Chunk(log, "log.csv"))
    row_of = transform.vocabularies["item_id"].lookup
    past = dict(users.select("user_id", "past_items").iter_rows())
    events = [row for row in log.select("user_id", "time_ms", "item_id", "is_click").iter_rows() if row[3] == 1]
    found = lists(batch, "clicks")
    for row in range(0, log.height, 7):
        user, time = log["user_id"][row], log["time_ms"][row]
        earlier = [item for u, t, item, _ in events if u == user and t < time]
        expected = (past[user] + earlier)[-5:]
        assert found[row] == row_of(pl.Series(expected, dtype=pl.String)).tolist()


def test_an_outcome_changes_no_input_of_its_own_or_of_an_earlier_row() -> None:
    log, users, items = toy_frames(400)
    changed = log.with_columns(
        pl.when(pl.int_range(pl.len()) >= 300).then(1 - pl.col("is_click")).otherwise("is_click").alias("is_click")
    )
    batches = []
    for frame in (log, changed):
        tables = tables_of(toy_schema(), frame, users, items)
        batches.append(fit(resolve(tables), LogReader(tables)).transform.raw_batch(Chunk(log, "log.csv")))
    before, after = (lists(batch, "clicks") for batch in batches)
    assert before[:301] == after[:301]
    assert before != after


# ---- new rows ----------------------------------------------------------------


def new_row(**values: Any) -> Chunk:
    row = {"user_id": "u1", "item_id": "i1", "time_ms": START, "tab": "home", "position": 1.0, "words": "red"}
    return Chunk(pl.DataFrame([{**row, **values}]), "new.csv")


def field(transform: Transform, batch: Batch, name: str) -> int:
    return int(batch.sparse_ids[0, [f.name for f in transform.spec.ids].index(name)])


def test_users_and_items_never_seen_are_unknown_and_their_features_missing(toy_dataset: Dataset) -> None:
    transform = toy_dataset.transform
    batch = transform.raw_batch(new_row(user_id="nobody", item_id="nothing"))
    assert [field(transform, batch, name) for name in ("user_id", "item_id", "category")] == [1, 1, 0]
    assert batch.dense_features[0].isnan().all()
    assert lists(batch, "clicks") == lists(batch, "interests") == [[]]


def test_missing_keys_are_missing(toy_dataset: Dataset) -> None:
    transform = toy_dataset.transform
    batch = transform.raw_batch(new_row(user_id="", item_id=None))
    assert [field(transform, batch, name) for name in ("user_id", "item_id", "category")] == [0, 0, 0]
    assert lists(batch, "clicks") == [[]]


def test_a_new_item_brings_its_features_in_the_row(toy_dataset: Dataset) -> None:
    transform = toy_dataset.transform
    known = transform.raw_batch(new_row(item_id="i3"))
    batch = transform.raw_batch(
        new_row(item_id="new", category="c3", price=19.0, picture=[1.0, 2.0, 3.0, 4.0], interests=["c1", "c2", "c4"])
    )
    assert field(transform, batch, "item_id") == 1
    assert field(transform, batch, "category") == field(transform, known, "category") > 1
    torch.testing.assert_close(batch.dense_features[0, 1], known.dense_features[0, 1])  # i3 costs 10 + 3^2
    assert batch.dense_features[0, 2:].tolist() == [1, 2, 3, 4]
    assert lists(batch, "interests") == [transform.vocabularies["category"].lookup(pl.Series(["c2", "c4"])).tolist()]


def test_a_new_value_is_hashed_where_the_table_is_hashed() -> None:
    hashed = {
        "name": "user_id",
        "kind": "categorical",
        "domain": "user",
        "vocabulary": {"policy": "hash", "num_buckets": 1000},
    }
    tables = toy_tables(400, features=[hashed], histories=[])
    batch = fit(resolve(tables), LogReader(tables)).transform.raw_batch(new_row(user_id="user_1"))
    assert batch.sparse_ids.tolist() == [[42]]


def test_a_row_without_a_column_of_the_context_is_named(toy_dataset: Dataset) -> None:
    chunk = Chunk(new_row().frame.drop("tab"), "new.csv")
    with pytest.raises(UnimixerError, match=r"^new\.csv: missing column 'tab'"):
        toy_dataset.transform.raw_batch(chunk)


def test_no_rows_give_an_empty_batch(toy_dataset: Dataset) -> None:
    batch = toy_dataset.transform.raw_batch(Chunk(new_row().frame.head(0), "new.csv"))
    assert len(batch) == 0
    assert all(offsets.tolist() == [0] for offsets in batch.sequence_offsets.values())


def test_a_batch_owns_its_memory(toy_dataset: Dataset) -> None:
    """Read-only memory of a mapped file would make writing to a tensor undefined."""
    for batch in (
        toy_dataset.transform.raw_batch(new_row()),
        next(Loader(toy_dataset, "test", batch_size=8).batches()),
    ):
        for tensor in tensors(batch).values():
            tensor.zero_()
    assert toy_dataset.transform.raw_batch(new_row()).sparse_ids.any()


# ---- layout ------------------------------------------------------------------


def test_columns_stand_users_first_then_items_then_impressions(toy_dataset: Dataset) -> None:
    spec = toy_dataset.transform.spec
    assert [f.name for f in spec.ids] == ["user_id", "item_id", "category", "hour", "tab", "position"]
    assert [(f.name, f.width) for f in spec.dense] == [("age", 1), ("price", 1), ("picture", 4)]
    assert [(f.name, f.group, f.target) for f in spec.sequences] == [
        ("interests", "interests", None),
        ("clicked_items", "clicks", "item_id"),
        ("clicked_categories", "clicks", "category"),
        ("words", "words", None),
    ]
    assert spec.labels == ("is_click", "long_view")
    assert type(spec).from_json(json.loads(json.dumps(spec.to_json()))) == spec


# ---- files -------------------------------------------------------------------


def test_a_transform_reads_back_and_gives_the_same_batches(tmp_path: Path) -> None:
    tables = toy_tables(400, name="a/b")
    names = {"word/s.x": {"name": "word/s.x", "source": "words"}}
    schema = toy_schema()
    features = [f.model_copy(update=names["word/s.x"]) if f.name == "words" else f for f in schema.features]
    tables = RawTables(
        schema.model_copy(update={"features": tuple(features)}), tables.impressions, tables.users, tables.items
    )
    transform = fit(resolve(tables), LogReader(tables)).transform
    transform.save(tmp_path / "transform")
    loaded = Transform.load(tmp_path / "transform")
    chunk = next(tables.impressions())
    assert loaded.spec == transform.spec
    assert loaded.schema == transform.schema
    assert_same(loaded.raw_batch(chunk, labels=True), transform.raw_batch(chunk, labels=True))


def test_a_damaged_transform_is_named(tmp_path: Path) -> None:
    tables = toy_tables(400)
    folder = tmp_path / "transform"
    fit(resolve(tables), LogReader(tables)).transform.save(folder)
    meta = (folder / "transform.json").read_text()
    for name in sorted(json.loads(meta)["checksums"]):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(UnimixerError, match=f"{name}: missing or damaged"):
            Transform.load(folder)
        (folder / name).unlink()
        with pytest.raises(UnimixerError, match=f"{name}: missing or damaged"):
            Transform.load(folder)
        (folder / name).write_bytes(data)
    Transform.load(folder)
    path = folder / "transform.json"
    for text, message in [
        (meta[:-40], r"transform\.json: damaged"),
        ("[]", r"transform\.json: damaged"),
        ("{}", r"transform\.json: damaged"),
        (json.dumps({**json.loads(meta), "format": 99}), "format 99, this version reads 1"),
    ]:
        path.write_text(text)
        with pytest.raises(UnimixerError, match=message):
            Transform.load(folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UnimixerError, match=r"transform\.json: damaged"):
        Transform.load(folder)
    path.unlink()
    with pytest.raises(UnimixerError, match="is not a dataset or run made by unimixer"):
        Transform.load(folder)


def test_dense_values_are_those_of_the_raw_tables(toy_dataset: Dataset) -> None:
    log, users, items = toy_frames()
    batch = toy_dataset.transform.raw_batch(Chunk(log, "log.csv"))
    fitted = toy_dataset.transform.numerics["age"]
    age = log.join(users, on="user_id", how="left", maintain_order="left")["age"].to_numpy()
    np.testing.assert_allclose(batch.dense_features[:, 0], (age - fitted.mean) / fitted.std, rtol=1e-6)
    pictures = log.join(items, on="item_id", how="left", maintain_order="left")["picture"]
    for row in range(0, log.height, 101):
        expected = pictures[row].to_list() if pictures[row] is not None else [np.nan] * 4
        np.testing.assert_allclose(batch.dense_features[row, 2:], expected, rtol=1e-6)


def test_a_saved_transform_remembers_the_forms_and_an_older_one_takes_texts_as_they_are(tmp_path: Path) -> None:
    tables = toy_tables(500)
    log, *entities = toy_frames(500)
    tables = tables_of(tables.schema, log.with_columns(tab=pl.col("is_click") == 1), *entities)
    fitted, folder = fit(resolve(tables), LogReader(tables)).transform, tmp_path / "transform"
    fitted.save(folder)
    feature = next(f for f in tables.schema.features if f.name == "tab")
    chunk = Chunk(pl.DataFrame({"tab": ["True", "FALSE", "1", None]}), "rows.csv")
    expected = fitted.id_column(feature, Chunk(pl.DataFrame({"tab": [True, False, True, None]}), "rows.parquet"))
    assert expected.tolist() == [3, 2, 3, 0]  # most are false
    assert Transform.load(folder).id_column(feature, chunk).tolist() == expected.tolist()
    meta = json.loads((folder / "transform.json").read_text())
    del meta["forms"]
    (folder / "transform.json").write_text(json.dumps(meta))
    assert Transform.load(folder).id_column(feature, chunk).tolist() == [1, 1, 3, 0]


def test_names_longer_than_that_of_a_file_are_saved_and_loaded(tmp_path: Path) -> None:
    tables = toy_tables(400)
    kept = [
        feature for feature in tables.schema.features if feature.kind == "categorical" and feature.transform == "none"
    ]
    names = {kept[0].name: "漢" * 100 + "a", kept[1].name: "漢" * 100 + "b"}
    features = tuple(f.model_copy(update={"table": names.get(f.name, f.table)}) for f in tables.schema.features)
    long = replace(tables, schema=tables.schema.model_copy(update={"features": features}))
    transform = fit(resolve(long), LogReader(long)).transform
    transform.save(tmp_path / "transform")
    loaded = Transform.load(tmp_path / "transform")
    for name in names.values():
        assert loaded.vocabularies[name].texts.to_list() == transform.vocabularies[name].texts.to_list()
    chunk = next(long.impressions())
    assert_same(loaded.raw_batch(chunk, labels=True), transform.raw_batch(chunk, labels=True))
