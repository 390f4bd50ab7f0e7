"""Convert batches to TorchRec's KeyedJaggedTensor and back, for loops that have TorchRec on one side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from unimixer.errors import MissingExtraError, UnimixerError, unknown
from unimixer.features.batch import Batch
from unimixer.features.check_ids import out_of_range
from unimixer.features.spec import FeatureSpec, SequenceField
from unimixer.training.distributed.layout import columns_of
from unimixer.training.process_group import quietly

if TYPE_CHECKING:
    from torchrec import JaggedTensor, KeyedJaggedTensor


def to_jagged(batch: Batch, spec: FeatureSpec) -> KeyedJaggedTensor:
    """Return the ids of a batch with one key a field: one id a row for id fields, the events for sequence fields.

    Args:
        batch: a batch of B rows; its dense features, labels, weights and users stay behind.
        spec: shapes of the encoded data.

    Raises:
        MissingExtraError: without TorchRec.
    """
    columns = columns_of(spec)
    try:
        with quietly():
            from torchrec import KeyedJaggedTensor
    except ImportError:
        raise MissingExtraError("a KeyedJaggedTensor", "distributed") from None
    return KeyedJaggedTensor(
        keys=[column.field for column in columns],
        values=torch.cat([column.ids(batch).long() for column in columns]),
        lengths=torch.cat([column.lengths(batch) for column in columns]),
    )


def from_jagged(
    ids: KeyedJaggedTensor,
    spec: FeatureSpec,
    dense_features: Tensor | None = None,
    *,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
    users: Tensor | None = None,
) -> Batch:
    """Make a batch of the ids of a KeyedJaggedTensor; a row without an id in an id field gets row 0, missing.

    Args:
        ids: one key a field of the spec, in any order.
        spec: shapes of the encoded data.
        dense_features: ``(B, spec.dense_width)``; may be left out where there are none.
        labels: ``(B, tasks)``.
        weights: ``(B,)``.
        users: ``(B,)``.

    Raises:
        UnimixerError: if a key is missing or is no field, an id field has several ids in a row, fields of one group
            differ in their lengths, or an id lies outside its table.
    """
    fields: Mapping[str, JaggedTensor] = ids.to_dict()
    names = [*(field.name for field in spec.ids), *(field.name for field in spec.sequences)]
    for name in names:
        if name not in fields:
            raise UnimixerError(f"the KeyedJaggedTensor has no key {name!r}; it needs one for every field")
    for name in fields:
        if name not in names:
            raise unknown("key of the KeyedJaggedTensor", name, names)
    rows = ids.stride()
    if dense_features is None:
        if spec.dense_width:
            raise UnimixerError(f"pass dense_features of shape ({rows}, {spec.dense_width}), as the spec has them")
        dense_features = torch.zeros(rows, 0, device=ids.values().device)
    single = [_single(field.name, fields[field.name], spec.tables[field.table]) for field in spec.ids]
    empty = torch.zeros(rows, 0, dtype=torch.int32, device=ids.values().device)
    values, offsets = dict[str, Tensor](), dict[str, Tensor]()
    for group, members in spec.groups.items():
        values[group], offsets[group] = _events(members, fields, spec)
    return Batch(
        sparse_ids=torch.stack(single, dim=1) if single else empty,
        dense_features=dense_features,
        sequence_values=values,
        sequence_offsets=offsets,
        labels=labels,
        weights=weights,
        users=users,
    )


def _single(name: str, field: JaggedTensor, rows: int) -> Tensor:
    """Return the one id of every row."""
    lengths = field.lengths()
    if bool((lengths > 1).any()):
        row = int((lengths > 1).int().argmax())
        raise UnimixerError(
            f"batch, row {row}: {name} has {int(lengths[row])} ids; an id field has one, so make it a sequence field"
        )
    column = torch.zeros(len(lengths), dtype=torch.int32, device=lengths.device)
    column[lengths == 1] = _checked(name, field, rows)
    return column


def _events(
    members: tuple[SequenceField, ...], fields: Mapping[str, JaggedTensor], spec: FeatureSpec
) -> tuple[Tensor, Tensor]:
    """Return the events of a group, one column a field, and their offsets."""
    lengths = fields[members[0].name].lengths()
    for member in members[1:]:
        if not torch.equal(fields[member.name].lengths(), lengths):
            raise UnimixerError(
                f"{members[0].name} and {member.name} are fields of the history {members[0].group!r} and need equal "
                "lengths in every row"
            )
    columns = [_checked(f.name, fields[f.name], spec.tables[f.table]) for f in members]
    return torch.stack(columns, dim=1), _offsets(lengths)


def _checked(name: str, field: JaggedTensor, rows: int) -> Tensor:
    """Return the ids of a field as int32; raise for one outside its table."""
    ids: Tensor = field.values()
    wrong = (ids < 0) | (ids >= rows)
    if bool(wrong.any()):
        at = int(wrong.int().argmax())
        row = int(torch.searchsorted(_offsets(field.lengths()), at, right=True)) - 1
        raise out_of_range(name, int(ids[at]), rows, row)
    return ids.int()


def _offsets(lengths: Tensor) -> Tensor:
    return F.pad(lengths.long().cumsum(0), (1, 0))
