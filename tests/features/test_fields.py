"""All fields to one vector, in the order of the domains."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.embedding import PackedEmbedding
from unimixer.features.fields import DOMAINS, FieldEmbedding
from unimixer.features.sequence import SmallTransformer, TargetAttention
from unimixer.features.sequence_encoders import SEQUENCE_ENCODERS
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField

SPEC = FeatureSpec(
    # the context stands first here, and names that no attribute of a module could have
    ids=(IdField("hour", "context", "hour"), IdField("user.id", "user", "user"), IdField("item", "item", "item")),
    dense=(DenseField("price", "item"), DenseField("type", "item", 3), DenseField("age", "user")),
    sequences=(
        SequenceField("past items", "behaviour", "item", "items", 4, "item"),
        SequenceField("past hours", "behaviour", "hour", "items", 4),
        SequenceField("tags", "user", "tag", "tags", 2),
    ),
    tables={"hour": 5, "user": 4, "item": 6, "tag": 3},
    labels=("click",),
)


def batch() -> Batch:
    return Batch(
        sparse_ids=torch.tensor([[4, 0, 5], [1, 3, 0]], dtype=torch.int32),
        dense_features=torch.tensor([[1.5, 1.0, 2.0, 3.0, float("nan")], [float("nan")] * 4 + [2.0]]),
        sequence_values={
            "items": torch.tensor([[5, 0], [2, 4], [0, 1]], dtype=torch.int32),
            "tags": torch.tensor([[2]], dtype=torch.int32),
        },
        sequence_offsets={"items": torch.tensor([0, 3, 3]), "tags": torch.tensor([0, 0, 1])},
    )


def build(**options: Any) -> FieldEmbedding:
    torch.manual_seed(0)
    return FieldEmbedding(SPEC, **{"embedding_dim": 4, "embedding_init_std": 1.0, **options})


def pieces(module: FieldEmbedding, embedded: Tensor) -> dict[str, Tensor]:
    widths = [field.width for field in module.slices]
    return dict(zip([field.name for field in module.slices], torch.split(embedded, widths, dim=1), strict=True))


def table(module: FieldEmbedding, name: str) -> Tensor:
    """The rows of one table."""
    tables = module.tables
    first = tables.first_row(name)
    return tables.of_width(tables.width[name]).weight[first : first + SPEC.tables[name]]


def test_fields_stand_in_the_order_of_the_domains() -> None:
    module = build()
    order = [field.domain for field in module.slices]
    assert order == sorted(order, key=DOMAINS.index)
    assert [field.name for field in module.slices] == [
        *("user.id", "age", "tags"),
        *("item", "price", "type"),
        *("past items", "past hours"),
        "hour",
    ]
    assert module(batch()).shape == (2, module.out_dim) == (2, 9 * 4)


@pytest.mark.parametrize("dims", [{}, {"hour": 2}, {"user": 6, "item": 2, "tag": 6}], ids=str)
def test_every_field_is_embedded_by_its_own_table(dims: dict[str, int]) -> None:
    module = build(embedding_dims=dims)
    found = pieces(module, module(batch()))
    assert found["hour"].shape[1] == dims.get("hour", 4)
    for name, table_name, rows in (("hour", "hour", [4, 1]), ("user.id", "user", [0, 3]), ("item", "item", [5, 0])):
        assert torch.equal(found[name], table(module, table_name)[rows])
    items, tags = table(module, "item"), table(module, "tag")
    torch.testing.assert_close(found["past items"], torch.stack([items[[5, 2, 0]].mean(0), items[0] * 0]))
    torch.testing.assert_close(found["tags"], torch.stack([tags[0] * 0, tags[2]]))
    assert module.numeric is not None
    torch.testing.assert_close(found["price"][0], 1.5 * module.numeric.weight[0] + module.numeric.bias[0])
    torch.testing.assert_close(found["age"][0], module.numeric.missing[1])
    torch.testing.assert_close(found["age"][1], 2 * module.numeric.weight[1] + module.numeric.bias[1])
    projection = module.vectors[0]
    torch.testing.assert_close(found["type"][0], projection.linear(torch.tensor([1.0, 2, 3])))  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("dims", [{}, {"hour": 2}, {"user": 6, "item": 2, "tag": 6}, {"tag": 3}], ids=str)
@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_one_merged_lookup_is_a_lookup_for_every_field(
    dims: dict[str, int], encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if encoder != "mean":
        dims = {**dims, "hour": 2}  # the heads of the transformer divide the width of an event
    found = []
    for merged in (True, False):
        if not merged:
            monkeypatch.setattr(
                PackedEmbedding, "lookup", lambda self, rows, bags, offsets: (self(rows), self.mean(bags, offsets))
            )
        module = build(embedding_dims=dims, sequence_encoder=encoder)
        embedded = module(batch())
        (embedded * torch.arange(embedded.numel()).view_as(embedded).cos()).sum().backward()
        gradients = {n: p.grad.to_dense() for n, p in module.named_parameters() if p.grad is not None}
        found.append((embedded, gradients))
    assert torch.equal(found[0][0], found[1][0])
    assert (
        found[0][1].keys()
        == found[1][1].keys()
        == dict(build(embedding_dims=dims, sequence_encoder=encoder).named_parameters()).keys()
    )
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name])


def test_fields_that_share_a_table_share_its_gradient() -> None:
    module = build()
    found = pieces(module, module(batch()))
    (found["item"][:1].sum() + found["past items"].sum()).backward()
    gradient = module.tables.of_width(4).weight.grad
    assert gradient is not None
    first = module.tables.first_row("item")
    # item 5 is the candidate of row 0 and one of its three past items
    torch.testing.assert_close(gradient.to_dense()[first + 5], torch.full((4,), 1 + 1 / 3))


@pytest.mark.parametrize(
    ("encoder", "kind"), [("target_attention", TargetAttention), ("transformer", SmallTransformer)]
)
@pytest.mark.parametrize("dims", [{}, {"hour": 2}])
def test_events_are_compared_with_the_candidate(encoder: str, kind: type, dims: dict[str, int]) -> None:
    module = build(sequence_encoder=encoder, embedding_dims=dims)
    (only,) = module.encoders  # tags have no counterpart and are pooled by their mean
    assert isinstance(only, kind)
    found = pieces(module, module(batch()))
    items, hours = table(module, "item"), table(module, "hour")
    events = torch.cat([items[[5, 2, 0]], hours[[0, 4, 1]]], dim=1)
    pooled = only(events, torch.tensor([0, 3, 3]), items[[5, 0]])
    torch.testing.assert_close(torch.cat([found["past items"], found["past hours"]], dim=1), pooled)
    tags = table(module, "tag")
    torch.testing.assert_close(found["tags"], torch.stack([tags[0] * 0, tags[2]]))


def test_a_counterpart_of_another_width_is_none() -> None:
    spec = replace(SPEC, sequences=(SequenceField("past", "behaviour", "hour", "items", 4, "item"),))
    module = FieldEmbedding(spec, embedding_dim=4, embedding_dims={"hour": 2}, sequence_encoder="transformer")
    assert len(module.encoders) == 0


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_a_row_is_embedded_alike_alone_and_among_others(toy_dataset: Dataset, encoder: str) -> None:
    torch.manual_seed(0)
    module = FieldEmbedding(
        toy_dataset.transform.spec, embedding_dim=4, sequence_encoder=encoder, embedding_init_std=1.0
    ).eval()
    together = module(next(Loader(toy_dataset, "test", batch_size=9).batches()))
    alone = torch.cat([module(b) for b in islice(Loader(toy_dataset, "test", batch_size=1).batches(), 9)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


# ---- errors ------------------------------------------------------------------


def changed(row: int, column: int, value: int) -> Batch:
    ids = batch().sparse_ids.clone()
    ids[row, column] = value
    return replace(batch(), sparse_ids=ids)


def test_a_good_batch_passes() -> None:
    build().check(batch())
    build().check(batch().map(lambda t: t[:0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed(1, 0, 5), "batch, row 1: hour=5 is out of range: its table has rows 0 to 4; encode the data with the"),
        (changed(0, 1, -1), "batch, row 0: user.id=-1 is out of range: its table has rows 0 to 3"),
        (changed(1, 2, 6), "batch, row 1: item=6 is out of range: its table has rows 0 to 5"),
        (
            replace(batch(), sequence_values={**batch().sequence_values, "tags": torch.tensor([[3]])}),
            "batch, row 1: tags=3 is out of range",
        ),
        (
            replace(
                batch(), sequence_values={**batch().sequence_values, "items": torch.tensor([[5, 0], [2, 0], [0, 5]])}
            ),
            "batch, row 0: past hours=5 is out of range",
        ),
        (
            replace(batch(), sparse_ids=batch().sparse_ids[:, :2]),
            r"batch.sparse_ids has shape \(2, 2\), expected \(any, 3\)",
        ),
        (
            replace(batch(), dense_features=batch().dense_features[:, :2]),
            r"batch.dense_features has shape \(2, 2\), expected \(any, 5\)",
        ),
    ],
)
def test_an_id_outside_its_table_is_named_with_its_row(wrong: Batch, message: str) -> None:
    """In packed tables it would silently read the row of another field."""
    with pytest.raises(UnimixerError, match=message):
        build().check(wrong)


def test_an_unknown_encoder_gets_the_nearest_name() -> None:
    with pytest.raises(UnimixerError, match="sequence_encoder='transfomer' is not one of mean, target_attention, tran"):
        build(sequence_encoder="transfomer")
