"""``unimixer embeddings``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder


def test_embeddings_writes_vectors_by_id_and_prints_neighbours(cli: Callable[..., Any], toy_run: RunFolder) -> None:
    done = cli("embeddings", toy_run.folder, "--table", "item_id", "--output", "items.parquet")
    assert "vectors of width 4" in done.out
    frame = pl.read_parquet("items.parquet")
    texts = toy_run.transform.vocabularies["item_id"].texts
    assert frame["id"].to_list() == texts.to_list()
    tables = load_ranker(toy_run).embedding.tables
    row = tables.first_row("item_id") + int(toy_run.transform.vocabularies["item_id"].lookup(texts[5:6])[0])
    assert frame["vector"][5].to_list() == tables.of_width(4).weight[row].tolist()
    near = cli(
        "embeddings", toy_run.folder, "--table", "item_id", "--neighbours", texts[5], "--count", 3, "--json"
    ).json
    matrix = np.asarray(frame["vector"].to_list())
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    expected = [texts[int(i)] for i in np.argsort(-(matrix @ matrix[5])) if i != 5][:3]
    assert [one["id"] for one in near["neighbours"]] == expected
    given = ("embeddings", toy_run.folder, "--table", "item_id")
    assert "pass --overwrite" in cli(*given, "--output", "items.parquet").error
    assert "has no row of its own" in cli(*given, "--neighbours", "nothing").error
    assert "unknown table 'items'; did you mean 'item_id'" in cli("embeddings", toy_run.folder, "--table", "items",
                                                                  "--neighbours", "1").error  # fmt: skip
    assert "give --output FILE" in cli(*given).error
