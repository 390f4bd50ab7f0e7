"""What processes that share tables ask each other for: every row of a table once, whoever reads it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unimixer.features.batch import Batch
from unimixer.training.distributed.layout import Column, distinct_rows

COLUMNS = [Column("item", "item", 0, None), Column("hour", "hour", 1, None), Column("watched", "item", 0, "history")]


def batch(ids: list[list[int]], watched: list[list[int]]) -> Batch:
    offsets = torch.tensor([0, *torch.tensor([len(events) for events in watched]).cumsum(0).tolist()])
    events = torch.tensor([[event] for row in watched for event in row], dtype=torch.long).view(-1, 1)
    return Batch(
        torch.tensor(ids).view(-1, 2),
        torch.zeros(len(ids), 0),
        sequence_values={"history": events},
        sequence_offsets={"history": offsets},
    )


def test_a_row_is_asked_for_once_whichever_fields_and_batches_read_it() -> None:
    batches = [batch([[7, 1], [7, 1], [3, 1]], [[3, 7], [], [9]]), batch([[9, 0]], [[7, 7, 7]])]
    rows, places = distinct_rows(COLUMNS, batches)
    assert {table: ids.tolist() for table, ids in rows.items()} == {"item": [3, 7, 9], "hour": [0, 1]}
    for column in COLUMNS:
        read = torch.cat([column.ids(one) for one in batches])
        assert torch.equal(rows[column.table][places[column.field]], read)


def test_gradients_of_a_row_are_summed_before_they_are_sent() -> None:
    rows, places = distinct_rows(COLUMNS, [batch([[7, 1], [7, 1]], [[7], [3]])])
    answers = torch.zeros(len(rows["item"]), 2, requires_grad=True)
    upstream: dict[str, Tensor] = {
        "item": torch.tensor([[1.0, 2], [3, 4]]),
        "watched": torch.tensor([[5.0, 6], [7, 8]]),
    }
    sum((F.embedding(places[name], answers) * given).sum() for name, given in upstream.items()).backward()
    assert answers.grad is not None
    assert answers.grad.tolist() == [[7, 8], [9, 12]]  # rows 3 and 7


def test_a_batch_without_rows_asks_for_nothing() -> None:
    rows, places = distinct_rows(COLUMNS, [batch([], [])])
    assert [len(ids) for ids in (*rows.values(), *places.values())] == [0, 0, 0, 0, 0]
