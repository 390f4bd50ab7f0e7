"""Embedding tables that start from vectors of a file, and stay at them where they are frozen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.readers import read_table
from unimixer.data.raw.values import as_text, column
from unimixer.data.schema import FIRST_ID
from unimixer.errors import UnimixerError, first_line, unknown
from unimixer.ranker import Ranker
from unimixer.training.config import PretrainedConfig, Recipe


@dataclass(frozen=True)
class PretrainedTable:
    """Vectors for some rows of a table."""

    name: str
    rows: NDArray[np.int64]
    """Rows of the table, each once."""
    vectors: NDArray[np.float32]
    frozen: bool
    num_ids: int
    """Ids that own a row of the table."""

    def line(self) -> str:
        """Say how many ids have a vector."""
        state = "frozen" if self.frozen else "trained further"
        share = len(self.rows) / max(1, self.num_ids)
        return (
            f"table {self.name!r}: {len(self.rows):,} of {self.num_ids:,} ids ({share:.1%}) start from vectors, {state}"
        )

    def new(self, kept: NDArray[np.int64]) -> PretrainedTable:
        """Return the vectors that begin when a run goes on: those of new rows, and all where they are frozen."""
        begins = ~np.isin(self.rows, kept) | self.frozen
        return replace(self, rows=self.rows[begins], vectors=self.vectors[begins])

    def facts(self) -> dict[str, Any]:
        """Return plain values."""
        return {"table": self.name, "ids": self.num_ids, "with_vector": len(self.rows), "frozen": self.frozen}


def read_pretrained(recipe: Recipe, transform: Transform, model: Ranker) -> list[PretrainedTable]:
    """Read the vectors of all tables that a recipe names.

    Raises:
        UnimixerError: an unknown or shared table, a file without its columns, vectors of another width.
    """
    return [_read(name, config, recipe, transform, model) for name, config in recipe.pretrained.items()]


def _read(name: str, config: PretrainedConfig, recipe: Recipe, transform: Transform, model: Ranker) -> PretrainedTable:
    if name not in transform.vocabularies:
        raise unknown("table of pretrained", name, transform.vocabularies)
    vocabulary, width = transform.vocabularies[name], model.embedding.tables.width[name]
    if vocabulary.num_buckets or name in recipe.model.managed_embeddings:
        raise UnimixerError(f"pretrained.{name}: ids of this table share rows; name a table with a row for every id")
    if name not in model.embedding.read_tables:
        raise UnimixerError(f"pretrained.{name}: the model ignores the features of this table; name one that it reads")
    keys, vectors = _load(Path(config.path), config)
    if vectors.shape[1] != width:
        raise UnimixerError(
            f"{config.path}: vectors have width {vectors.shape[1]}, and table {name!r} has {width}; "
            f"set model.embedding_dims.{name}={vectors.shape[1]}"
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise UnimixerError(
            f"{config.path}, row {row + 1}: the vector has a number that is missing or infinite; drop it"
        )
    if keys.n_unique() < len(keys):
        twice = keys.filter(keys.is_duplicated())[0]
        raise UnimixerError(f"{config.path}: id {twice!r} is there twice; keep one vector of every id")
    rows = vocabulary.lookup(keys).astype(np.int64)
    known = rows >= FIRST_ID
    if not known.any():
        raise UnimixerError(f"{config.path}: none of its {len(keys):,} ids is in table {name!r}; check the key column")
    return PretrainedTable(name, rows[known], vectors[known], not config.trained, len(vocabulary.texts))


def _load(path: Path, config: PretrainedConfig) -> tuple[pl.Series, NDArray[np.float32]]:
    """Read ids, as canonical texts, and vectors."""
    if path.suffix == ".npy":
        matrix, ids = _array(path), _array(Path(config.key))
        if matrix.ndim != 2 or ids.shape != matrix.shape[:1]:
            raise UnimixerError(
                f"{path} has shape {matrix.shape} and {config.key} {ids.shape}: one id a vector is needed"
            )
        if matrix.dtype.kind not in "fiu":
            raise UnimixerError(f"{path} holds {matrix.dtype}, expected numbers")
        return as_text(pl.Series(ids)), matrix.astype(np.float32)
    chunk = read_table(path, columns=[config.key, config.value])
    series = column(chunk, config.value)
    if not isinstance(series.dtype, (pl.List, pl.Array)) or not series.dtype.inner.is_numeric():
        raise UnimixerError(f"{path}: column {config.value!r} has type {series.dtype}, expected lists of numbers")
    lists = series.cast(pl.List(pl.Float32))
    if lists.null_count() or lists.list.len().n_unique() != 1:
        raise UnimixerError(
            f"{path}: vectors of column {config.value!r} differ in width or are missing; make them alike"
        )
    vectors = lists.explode().to_numpy().reshape(len(lists), -1)
    return as_text(column(chunk, config.key)), vectors


def _array(path: Path) -> NDArray[Any]:
    if not path.exists():
        raise UnimixerError(f"{path}: no such file; for vectors in .npy, key names the .npy file of their ids")
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UnimixerError(
            f"{path}: {first_line(error)}; write an array of numbers or texts with numpy.save"
        ) from None
    return array


@torch.no_grad()
def start_tables(tables: list[PretrainedTable], model: Ranker) -> None:
    """Write the vectors into the tables of a model."""
    packed = model.embedding.tables
    for table in tables:
        weight = packed.of_width(packed.width[table.name]).weight
        rows = torch.from_numpy(table.rows + packed.first_row(table.name)).to(weight.device)
        weight[rows] = torch.from_numpy(table.vectors).to(weight.device)


def freeze_rows(tables: list[PretrainedTable], model: Ranker) -> None:
    """Drop the gradients of rows with a frozen vector."""
    packed = model.embedding.tables
    for table in tables:
        if table.frozen:
            weight = packed.of_width(packed.width[table.name]).weight
            frozen = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
            frozen[torch.from_numpy(table.rows + packed.first_row(table.name)).to(weight.device)] = True
            hook = partial(_drop, frozen=frozen)
            weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]


def _drop(parameter: Tensor, frozen: Tensor) -> None:
    gradient = parameter.grad
    assert gradient is not None
    gradient = gradient.coalesce()
    kept = ~frozen[gradient.indices()[0]]
    indices, values = gradient.indices()[:, kept], gradient.values()[kept]
    parameter.grad = torch.sparse_coo_tensor(indices, values, gradient.shape, is_coalesced=True, check_invariants=False)
