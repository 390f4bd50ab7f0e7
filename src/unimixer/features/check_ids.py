"""Check the ids of a batch against the rows of their tables."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.errors import UnimixerError, check_shape
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec


def check_ids(spec: FeatureSpec, limits: Tensor, batch: Batch) -> None:
    """Raise if an id lies outside its table: in packed tables it would read another field's row.

    Args:
        spec: fields and their tables.
        limits: rows of the table of every id field, ``(F,)``.
        batch: to check.
    """
    check_shape("batch.sparse_ids", batch.sparse_ids, (None, len(spec.ids)))
    check_shape("batch.dense_features", batch.dense_features, (None, spec.dense_width))
    if len(batch) == 0:
        return
    high, low = batch.sparse_ids.amax(0), batch.sparse_ids.amin(0)
    if bool((high >= limits).any()) or bool((low < 0).any()):
        column = int(((high >= limits) | (low < 0)).int().argmax())
        wrong = (batch.sparse_ids[:, column] >= limits[column]) | (batch.sparse_ids[:, column] < 0)
        row = int(wrong.int().argmax())
        raise out_of_range(spec.ids[column].name, int(batch.sparse_ids[row, column]), int(limits[column]), row)
    for group, fields in spec.groups.items():
        for column, field in enumerate(fields):
            values, rows = batch.sequence_values[group][:, column], spec.tables[field.table]
            if values.numel() and (int(values.max()) >= rows or int(values.min()) < 0):
                at = int(((values >= rows) | (values < 0)).int().argmax())
                row = int(torch.searchsorted(batch.sequence_offsets[group], at, right=True)) - 1
                raise out_of_range(field.name, int(values[at]), rows, row)


def out_of_range(name: str, value: int, limit: int, row: int) -> UnimixerError:
    """Make the error for an id that its table does not have."""
    return UnimixerError(
        f"batch, row {row}: {name}={value} is out of range: its table has rows 0 to {limit - 1}; "
        "encode the data with the transform that the model was built for"
    )
