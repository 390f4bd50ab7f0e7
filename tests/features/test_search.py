"""Search in long histories: hard and soft, against loops, before and after the lookup."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.features import search as module
from unimixer.features.batch import Batch
from unimixer.features.fields import FieldEmbedding
from unimixer.features.search import HistorySearch, inner_products, nearest, newest
from unimixer.features.spec import DenseField, FeatureSpec, IdField, SequenceField

SPEC = FeatureSpec(
    ids=(IdField("user", "user", "user"), IdField("item", "item", "item"), IdField("category", "item", "category")),
    dense=(DenseField("age", "user"),),
    sequences=(
        SequenceField("past items", "behaviour", "item", "clicks", 40, "item"),
        SequenceField("past categories", "behaviour", "category", "clicks", 40, "category"),
    ),
    tables={"user": 4, "item": 30, "category": 5},
    labels=("click",),
)
HARD = {"clicks": {"kind": "hard", "field": "category", "top_k": 3}}
SOFT = {"clicks": {"kind": "soft", "top_k": 3}}
LENGTHS = [20, 0, 2, 40]


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(0, 30, (sum(LENGTHS),), generator=generator)
    values = torch.stack([items, items % 5], dim=1).int()  # an item has one category
    ids = torch.tensor([[1, 7, 2], [2, 9, 4], [3, 9, 4], [0, 11, 1]], dtype=torch.int32)
    return Batch(ids, torch.ones(4, 1), {"clicks": values}, {"clicks": torch.tensor([0, *LENGTHS]).cumsum(0)})


def build(**options: Any) -> FieldEmbedding:
    torch.manual_seed(0)
    return FieldEmbedding(SPEC, **{"embedding_dim": 4, "embedding_init_std": 1.0, "sequence_encoder": "din", **options})


def table(embedding: FieldEmbedding, name: str) -> Tensor:
    """The rows of one table."""
    return embedding.tables.of_width(4).weight[embedding.tables.first_row(name) :][: SPEC.tables[name]]


def rows_of(given_batch: Batch) -> list[Tensor]:
    return list(given_batch.sequence_values["clicks"].split(given_batch.sequence_offsets["clicks"].diff().tolist()))


def with_rows(given_batch: Batch, rows: list[Tensor]) -> Batch:
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return replace(given_batch, sequence_values={"clicks": torch.cat(rows)}, sequence_offsets={"clicks": offsets})


def found_by_loops(embedding: FieldEmbedding, given_batch: Batch) -> Batch:
    """The events that each search finds, row by row and event by event, in their order."""
    (search,) = embedding.searches.values()
    items, categories = table(embedding, "item").detach(), table(embedding, "category").detach()
    kept = []
    for (_, item, category), events in zip(given_batch.sparse_ids.tolist(), rows_of(given_batch), strict=True):
        numbers = list(range(len(events)))
        if search.kind == "hard":
            chosen = [n for n in numbers if events[n, 1] == category][-search.top_k :]
        else:
            candidate = torch.cat([items[item], categories[category]])
            vectors = [torch.cat([items[i], categories[c]]) for i, c in events.tolist()]
            score = {n: float(inner_products(vectors[n], candidate)) for n in numbers}
            chosen = sorted(sorted(numbers, key=lambda n: (-score[n], -n))[: search.top_k])
        kept.append(events[chosen])
    return with_rows(given_batch, kept)


@pytest.mark.parametrize("searches", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("encoder", ["din", "target_attention", "dien"])
def test_a_searched_history_is_encoded_as_one_of_the_found_events(searches: dict[str, Any], encoder: str) -> None:
    searched = build(sequence_search=searches, sequence_encoder=encoder).eval()
    short = replace(SPEC, sequences=tuple(replace(f, max_length=3) for f in SPEC.sequences))
    torch.manual_seed(0)
    plain = FieldEmbedding(short, embedding_dim=4, embedding_init_std=1.0, sequence_encoder=encoder).eval()
    assert [p.shape for p in plain.parameters()] == [p.shape for p in searched.parameters()]
    found = found_by_loops(searched, batch())
    assert 0 < max(len(events) for events in rows_of(found)) <= 3
    outputs, gradients = [], []
    for embedding, given_batch in ((searched, batch()), (plain, found)):
        out = embedding(given_batch)
        (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        outputs.append(out)
        gradients.append([p.grad.to_dense() for p in embedding.parameters() if p.grad is not None])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_a_hard_search_is_made_before_the_lookup_and_a_second_one_finds_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BLOCK_EVENTS", 25)  # several blocks, one row longer than a block
    embedding = build(sequence_search=HARD)
    found = embedding.search(batch())
    expected = found_by_loops(embedding, batch())
    assert torch.equal(found.sequence_values["clicks"], expected.sequence_values["clicks"])
    assert torch.equal(found.sequence_offsets["clicks"], expected.sequence_offsets["clicks"])
    assert embedding.search(found) is found
    assert torch.equal(embedding(found), embedding(batch()))
    soft = build(sequence_search=SOFT)
    given_batch = batch()
    assert soft.search(given_batch) is given_batch  # it needs embeddings


def test_an_empty_batch_has_nothing_to_find() -> None:
    found = build(sequence_search=HARD).search(batch().part(0, 0))
    assert len(found) == 0
    assert found.sequence_offsets["clicks"].tolist() == [0]


@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.integers(-2, 2)), max_size=6), max_size=5),
    st.integers(1, 4),
)
def test_selections_are_those_of_a_loop(rows: list[list[tuple[bool, int]]], count: int) -> None:
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    match = torch.tensor([m for row in rows for m, _ in row], dtype=torch.bool)
    scores = torch.tensor([float(s) for row in rows for _, s in row])
    latest, best = [], []
    for row in rows:
        marked = [n for n, (m, _) in enumerate(row) if m][-count:]
        largest = sorted(range(len(row)), key=lambda n: (-row[n][1], -n))[:count]
        latest += [n in marked for n in range(len(row))]
        best += [n in largest for n in range(len(row))]
    assert newest(match, offsets, count).tolist() == latest
    assert nearest(scores, offsets, count).tolist() == best


@pytest.mark.parametrize("searches", [HARD, SOFT], ids=["hard", "soft"])
def test_vectors_that_processes_share_are_searched_as_those_of_one(
    searches: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = build(sequence_search=searches)
    expected = embedding(batch())

    def vectors(asked: Batch) -> dict[str, Tensor]:
        columns = [(f, asked.sparse_ids[:, column]) for column, f in enumerate(SPEC.ids)]
        columns += [(f, asked.sequence_values["clicks"][:, column]) for column, f in enumerate(SPEC.sequences)]
        return {f.name: table(embedding, f.table)[ids.long()] for f, ids in columns}

    monkeypatch.setattr(embedding.tables, "vectors", vectors)
    assert torch.equal(embedding(batch()), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_search": {"clicsk": {}}}, "unknown history in sequence_search 'clicsk'; did you mean 'clicks'"),
        ({"sequence_search": {"clicks": {"topk": 3}}}, "unknown key of sequence_search.clicks 'topk'; did you mean"),
        (
            {"sequence_search": {"clicks": {"kind": "lsh"}}},
            "sequence_search.clicks.kind='lsh' is not one of hard, soft",
        ),
        ({"sequence_search": {"clicks": {"kind": "soft", "top_k": 0}}}, "top_k=0 must be a whole number from 1 on"),
        ({"sequence_search": {"clicks": {"kind": "hard"}}}, "hard search needs the field; set field for hard search"),
        (
            {"sequence_search": {"clicks": {"kind": "soft", "field": "category"}}},
            "soft search compares embeddings and has no field; set field for hard search, and only for it",
        ),
        (
            {"sequence_search": {"clicks": {"field": "user"}}},
            "sequence_search.clicks.field='user' is no field of the candidate that the history 'clicks' has too, with "
            "one table for both; such fields: item, category",
        ),
        (
            {"sequence_search": SOFT, "sequence_encoder": "mean"},
            "sequence_search goes with sequence_encoder target_attention, din, dien, not with 'mean'",
        ),
        (
            {"sequence_search": SOFT, "pool_behaviour": False},
            "sequence_search.clicks has no effect: the vector E does not compare this history with the candidate",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_search_that_cannot_be_made_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        build(**options)
    assert message in str(error.value)


def test_fields_of_two_tables_cannot_be_compared() -> None:
    apart = tuple(replace(f, table="user") if f.name == "past categories" else f for f in SPEC.sequences)
    with pytest.raises(UnimixerError, match=r"with one table for both; such fields: item$"):
        HistorySearch.of(replace(SPEC, sequences=apart), "clicks", {"field": "category"})
