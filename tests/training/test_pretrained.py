"""Embedding tables that start from vectors of a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.inspection.embeddings import embedding_vectors
from unimixer.training.run import RunFolder
from unimixer.training.train import train


def vectors_of(data: Path, width: int = 4) -> pl.DataFrame:
    """Vectors for all items but the first, and for one item that the data does not know."""
    ids = [*Dataset(data).transform.vocabularies["item_id"].texts[1:].to_list(), "never seen"]
    vectors = np.random.default_rng(0).standard_normal((len(ids), width)).astype(np.float32)
    return pl.DataFrame({"item": ids, "v": vectors.tolist()}, schema_overrides={"v": pl.List(pl.Float32)})


def trained(data: Path, folder: Path, pretrained: str) -> RunFolder:
    recipe = tiny_recipe(data, f"pretrained={pretrained}", "training.max_steps=3")
    return train(recipe, folder=folder, quiet=True)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_table_starts_from_vectors_and_stays_where_it_is_frozen(
    frozen: bool, toy_folder: Path, tmp_path: Path
) -> None:
    given = vectors_of(toy_folder)
    given.write_parquet(tmp_path / "items.parquet")
    text = f"{{item_id: {{path: {tmp_path}/items.parquet, key: item, value: v, trained: {str(not frozen).lower()}}}}}"
    run = trained(toy_folder, tmp_path / "run", text)
    found = embedding_vectors(run.folder, "item_id")
    both = given.join(found, left_on="item", right_on="id")
    before, after = (np.asarray(both[name].to_list()) for name in ("v", "vector"))
    moved = np.abs(before - after).max(axis=1)
    assert (moved == 0).all() if frozen else 0 < moved.max() < 0.02
    first = found["vector"][0].to_numpy()
    assert np.abs(first).max() < 0.1  # drawn, not given
    facts = json.loads((run.folder / "pretrained.json").read_text())["tables"]
    assert facts == [{"table": "item_id", "ids": found.height, "with_vector": found.height - 1, "frozen": frozen}]
    assert f"{found.height - 1} of {found.height} ids" in (run.folder / "train.log").read_text()


def test_vectors_may_be_a_matrix_with_a_file_of_ids(toy_folder: Path, tmp_path: Path) -> None:
    given = vectors_of(toy_folder)
    np.save(tmp_path / "v.npy", np.asarray(given["v"].to_list(), dtype=np.float32))
    np.save(tmp_path / "ids.npy", np.asarray(given["item"].to_list()))
    text = f"{{item_id: {{path: {tmp_path}/v.npy, key: {tmp_path}/ids.npy, trained: false}}}}"
    found = embedding_vectors(trained(toy_folder, tmp_path / "run", text).folder, "item_id")
    both = given.join(found, left_on="item", right_on="id")
    assert both["v"].to_list() == both["vector"].to_list()


def test_vectors_replace_the_rows_of_a_warm_start(toy_folder: Path, toy_run: RunFolder, tmp_path: Path) -> None:
    given = vectors_of(toy_folder)
    given.write_parquet(tmp_path / "items.parquet")
    text = f"{{item_id: {{path: {tmp_path}/items.parquet, key: item, value: v, trained: false}}}}"
    recipe = tiny_recipe(toy_folder, f"pretrained={text}", "training.max_steps=1")
    run = train(recipe, folder=tmp_path / "run", start_from=toy_run.folder, quiet=True)
    both = given.join(embedding_vectors(run.folder, "item_id"), left_on="item", right_on="id")
    assert both.height > 0
    assert both["v"].to_list() == both["vector"].to_list()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("table: {path: items.parquet, key: item, value: v}", "unknown table of pretrained 'table'"),
        ("category: {path: items.parquet, key: item, value: v}", "none of its .* ids is in table 'category'"),
        ("item_id: {path: wide.parquet, key: item, value: v}", r"set model\.embedding_dims\.item_id=6"),
        ("item_id: {path: twice.parquet, key: item, value: v}", "is there twice"),
        ("item_id: {path: objects.npy, key: ids.npy}", "objects.npy: .*; write an array of numbers or texts"),
        ("item_id: {path: texts.npy, key: ids.npy}", "texts.npy holds <U1, expected numbers"),
        (
            "item_id: {path: ragged.parquet, key: item, value: v}",
            "vectors of column 'v' differ in width or are missing",
        ),
        ("item_id: {path: items.parquet, key: item, value: item}", "column 'item' has type String, expected lists of"),
        (
            "item_id: {path: texts.npy, key: two.npy}",
            r"texts.npy has shape \(1, 1\) and two.npy \(2,\): one id a vector",
        ),
        ("item_id: {path: none.parquet, key: item, value: v}", "no such file"),
        ("item_id: {path: items.parquet, key: itm, value: v}", "'itm'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_the_run(
    change: str, message: str, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = vectors_of(toy_folder)
    given.write_parquet("items.parquet")
    vectors_of(toy_folder, width=6).write_parquet("wide.parquet")
    np.save("objects.npy", np.array([["a", 1.0]], dtype=object))
    np.save("texts.npy", np.array([["a"]]))
    np.save("ids.npy", np.array([7]))
    np.save("two.npy", np.array([7, 8]))
    pl.concat([given.head(1), vectors_of(toy_folder, width=6).tail(1)]).write_parquet("ragged.parquet")
    pl.concat([given, given]).write_parquet("twice.parquet")
    with pytest.raises(UnimixerError, match=message):
        trained(toy_folder, tmp_path / "run", f"{{{change}}}")
    assert not (tmp_path / "run").exists()


def test_tables_of_ignored_features_have_no_vectors(toy_folder: Path, tmp_path: Path) -> None:
    run = train(
        tiny_recipe(toy_folder, "model.ignored_features=[tab]", "training.max_steps=1"),
        folder=tmp_path / "run",
        quiet=True,
    )
    with pytest.raises(UnimixerError, match=r"'tab': the model ignores its features .* vectors are untrained"):
        embedding_vectors(run.folder, "tab")
    text = "{tab: {path: none.parquet}}"
    recipe = tiny_recipe(toy_folder, "model.ignored_features=[tab]", f"pretrained={text}")
    with pytest.raises(UnimixerError, match=r"pretrained\.tab: the model ignores the features of this table"):
        train(recipe, folder=tmp_path / "other", quiet=True)
