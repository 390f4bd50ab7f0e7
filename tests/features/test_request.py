"""A request is a batch whose rows share their user."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from toy import START, toy_tables

from unimixer.data.encoding.layout import request_layout
from unimixer.data.encoding.transform import Transform
from unimixer.data.prepare import prepare
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.features.request import Request


@pytest.fixture
def transform(tmp_path: Path) -> Transform:
    return prepare(toy_tables(), tmp_path / "store").transform


def rows(user: list[str]) -> Chunk:
    items = [f"i{number}" for number in range(len(user))]
    frame = {"user_id": user, "item_id": items, "time_ms": START + 5 * 86_400_000, "tab": "1", "position": 2}
    return Chunk(pl.DataFrame({**frame, "words": ["a|b"] * len(user)}), "rows")


def test_the_batch_of_a_request_is_the_batch_that_it_came_from(transform: Transform) -> None:
    batch = transform.raw_batch(rows(["u3"] * 4))
    layout = request_layout(transform.schema)
    request = Request.of(batch, layout)
    assert len(request.user) == 1
    assert request.user.sparse_ids.shape[1] == layout.user_ids == 1
    assert request.user.dense_features.shape[1] == layout.user_dense == 1
    assert set(request.user.sequence_values) == set(layout.user_groups) == {"clicks", "interests"}
    assert set(request.candidates.sequence_values) == {"words"}
    again = request.batch()
    for name, tensor in batch.inputs().items():
        torch.testing.assert_close(again.inputs()[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_rows_of_two_users_are_no_request(transform: Transform) -> None:
    batch = transform.raw_batch(rows(["u3", "u4"]))
    with pytest.raises(UnimixerError, match="one user at one time"):
        Request.of(batch, request_layout(transform.schema))
