"""The trained vectors of an embedding table, by the ids that own them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from unimixer.data.schema import FIRST_ID
from unimixer.errors import UnimixerError, unknown
from unimixer.io import atomic_file
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder


def embedding_vectors(run: Path | str, table: str) -> pl.DataFrame:
    """Return the ids of a table (``id``, canonical texts) with their trained vectors (``vector``).

    Rows of missing and unknown values have no id and are left out.

    Raises:
        UnimixerError: an unknown table, one whose rows several ids share, or one that the model does not read.
    """
    folder = RunFolder(run)
    recipe, transform = folder.recipe, folder.transform
    if table not in transform.vocabularies:
        raise unknown("table", table, transform.vocabularies)
    vocabulary = transform.vocabularies[table]
    if vocabulary.num_buckets or table in recipe.model.managed_embeddings:
        raise UnimixerError(
            f"table {table!r}: its ids share rows, so no id has a vector of its own; name another table"
        )
    embedding = load_ranker(folder).embedding
    if table not in embedding.read_tables:
        raise UnimixerError(
            f"table {table!r}: the model ignores its features (model.ignored_features), so its vectors are untrained; "
            "name another table"
        )
    tables = embedding.tables
    first = tables.first_row(table) + FIRST_ID
    with torch.no_grad():
        weight = tables.of_width(tables.width[table]).weight[first : first + len(vocabulary.texts)].numpy()
    return pl.DataFrame(
        {"id": vocabulary.texts, "vector": pl.Series(weight, dtype=pl.Array(pl.Float32, weight.shape[1]))}
    )


def neighbours(vectors: pl.DataFrame, key: str, count: int = 10) -> pl.DataFrame:
    """Return the ids whose vectors have the largest cosine with that of an id, the nearest first.

    Example:
        >>> vectors = pl.DataFrame({"id": ["a", "b", "c"], "vector": [[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]]})
        >>> [(key, round(cosine, 6)) for key, cosine in neighbours(vectors, "a", 1).rows()]
        [('c', 0.998752)]
    """
    ids = vectors.get_column("id")
    places = np.flatnonzero((ids == key).to_numpy())
    if not len(places):
        raise UnimixerError(f"id {key!r} has no row of its own: it is rare or not in the training part; choose another")
    matrix = vectors.get_column("vector").explode().to_numpy().reshape(len(ids), -1).astype(np.float64)
    lengths = np.maximum(np.linalg.norm(matrix, axis=1), 1e-300)
    cosine = matrix @ matrix[places[0]] / lengths / lengths[places[0]]
    cosine[places[0]] = -np.inf
    order = np.argsort(-cosine, kind="stable")[: min(count, len(ids) - 1)]
    return pl.DataFrame({"id": ids[order.tolist()], "cosine": cosine[order]})


def write_vectors(vectors: pl.DataFrame, output: Path) -> None:
    """Write ids and vectors as Parquet."""
    if output.suffix.lower() != ".parquet":
        raise UnimixerError(f"{output}: vectors are written as Parquet; let the name end with .parquet")
    with atomic_file(output) as temporary:
        vectors.write_parquet(temporary)
