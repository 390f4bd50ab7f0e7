"""The batch: named flat tensors, and nothing else."""

from __future__ import annotations

import json

import torch

from unimixer.features.batch import Batch
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField


def batch(labels: bool = True) -> Batch:
    return Batch(
        sparse_ids=torch.zeros(2, 3, dtype=torch.int32),
        dense_features=torch.zeros(2, 1),
        sequence_values={"past": torch.zeros(5, 2, dtype=torch.int32)},
        sequence_offsets={"past": torch.tensor([0, 2, 5])},
        labels=torch.zeros(2, 1) if labels else None,
    )


def test_the_inputs_are_flat_and_without_labels() -> None:
    assert list(batch().inputs()) == ["sparse_ids", "dense_features", "past.sequence_values", "past.sequence_offsets"]


def test_a_function_reaches_every_tensor_and_leaves_out_what_is_not_there() -> None:
    moved = batch().map(lambda tensor: tensor + 1)
    assert all(tensor.min() == 1 for tensor in moved.inputs().values())
    assert moved.labels is not None
    assert moved.labels.min() == 1
    assert moved.weights is None
    assert batch(labels=False).map(torch.clone).labels is None


def test_a_batch_goes_to_a_device() -> None:
    moved = batch().to("meta")
    assert all(tensor.is_meta for tensor in moved.inputs().values())
    assert len(moved) == 2


def test_a_spec_groups_its_sequences_and_survives_json() -> None:
    spec = FeatureSpec(
        ids=(IdField("a", "user", "a"),),
        dense=(DenseField("b", "item"), DenseField("c", "item", 4)),
        sequences=(
            SequenceField("d", "behaviour", "a", "past", 5, "a"),
            SequenceField("e", "context", "e", "e", 3),
            SequenceField("f", "behaviour", "f", "past", 5),
        ),
        tables={"a": 3, "e": 4, "f": 5},
        labels=("click",),
    )
    assert {name: [f.name for f in fields] for name, fields in spec.groups.items()} == {"past": ["d", "f"], "e": ["e"]}
    assert spec.dense_width == 5
    assert FeatureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
