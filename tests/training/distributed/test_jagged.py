"""Batches become TorchRec's jagged tensors and come back equal."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from needs import needs_torchrec

from unimixer.errors import UnimixerError
from unimixer.features import Batch, DenseField, FeatureSpec, IdField, SequenceField
from unimixer.training.distributed.jagged import from_jagged, to_jagged
from unimixer.training.process_group import quietly

pytestmark = needs_torchrec
SPEC = FeatureSpec(
    ids=(IdField("user", "user", "user"), IdField("item", "item", "item")),
    dense=(DenseField("price", "item"),),
    sequences=(
        SequenceField("past items", "behaviour", "item", "past", 4),
        SequenceField("past hours", "behaviour", "hour", "past", 4),
        SequenceField("tags", "item", "tag", "tags", 2),
    ),
    tables={"user": 4, "item": 6, "hour": 24, "tag": 3},
    labels=("click",),
)
BATCH = Batch(
    sparse_ids=torch.tensor([[2, 5], [0, 3]], dtype=torch.int32),
    dense_features=torch.tensor([[1.5], [float("nan")]]),
    sequence_values={
        "past": torch.tensor([[5, 23], [2, 0]], dtype=torch.int32),
        "tags": torch.tensor([[1], [2], [2]], dtype=torch.int32),
    },
    sequence_offsets={"past": torch.tensor([0, 2, 2]), "tags": torch.tensor([0, 1, 3])},
    labels=torch.tensor([[1.0], [0.0]]),
)


def jagged(**lists: list[list[int]]) -> Any:
    """A jagged tensor of the lists of every field, in place of those of the batch."""
    with quietly():
        from torchrec import KeyedJaggedTensor

    rows = {"user": [[2], [0]], "item": [[5], [3]], "past items": [[5, 2], []], "past hours": [[23, 0], []]}
    rows |= {"tags": [[1], [2, 2]]} | {name.replace("_", " "): values for name, values in lists.items()}
    return KeyedJaggedTensor(
        keys=list(rows),
        values=torch.tensor([value for field in rows.values() for row in field for value in row]),
        lengths=torch.tensor([len(row) for field in rows.values() for row in field]),
    )


def assert_equal(first: Batch, second: Batch) -> None:
    for name in (field.name for field in fields(Batch)):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0, equal_nan=True)


def test_a_batch_has_one_key_a_field() -> None:
    ids = to_jagged(BATCH, SPEC)
    assert ids.keys() == ["user", "item", "past items", "past hours", "tags"]
    assert ids.values().tolist() == [2, 0, 5, 3, 5, 2, 23, 0, 1, 2, 2]
    assert ids.lengths().tolist() == [1, 1, 1, 1, 2, 0, 2, 0, 1, 2]


def test_a_batch_comes_back_equal() -> None:
    found = from_jagged(to_jagged(BATCH, SPEC), SPEC, BATCH.dense_features, labels=BATCH.labels)
    assert_equal(found, BATCH)
    assert_equal(from_jagged(jagged(), SPEC, BATCH.dense_features, labels=BATCH.labels), BATCH)


def test_a_row_without_an_id_is_missing() -> None:
    found = from_jagged(jagged(user=[[], [3]]), SPEC, BATCH.dense_features)
    assert found.sparse_ids.tolist() == [[0, 5], [3, 3]]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"user": [[2], [1, 3]]}, "batch, row 1: user has 2 ids; an id field has one"),
        ({"item": [[5], [6]]}, "batch, row 1: item=6 is out of range: its table has rows 0 to 5"),
        ({"tags": [[1], [2, -1]]}, "batch, row 1: tags=-1 is out of range"),
        ({"past_hours": [[23], [0]]}, "past items and past hours are fields of the history 'past' and need equal"),
        ({"usr": [[2], [0]]}, "unknown key of the KeyedJaggedTensor 'usr'; did you mean 'user'"),
    ],
)
def test_ids_that_are_no_batch_are_refused(lists: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        from_jagged(jagged(**lists), SPEC, BATCH.dense_features)


def test_fields_and_dense_features_of_the_spec_are_required() -> None:
    with pytest.raises(UnimixerError, match=r"pass dense_features of shape \(2, 1\)"):
        from_jagged(jagged(), SPEC)
    wider = replace(SPEC, ids=(*SPEC.ids, IdField("city", "user", "user")))
    with pytest.raises(UnimixerError, match="has no key 'city'; it needs one for every field"):
        from_jagged(jagged(), wider, BATCH.dense_features)
