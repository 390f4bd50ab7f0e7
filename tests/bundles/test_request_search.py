"""The search of one history for many candidates finds what the search of a batch finds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unimixer.bundles.search import found_events, largest_products, latest_equal
from unimixer.features.search import HistorySearch, inner_products, nearest, newest


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), max_size=7), st.integers(1, 4))
def test_a_request_finds_what_a_batch_finds(events: list[tuple[int, int]], count: int) -> None:
    keys = torch.tensor(events, dtype=torch.float32).view(-1, 2)
    offsets = torch.tensor([0, len(keys)])
    for target in (torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])):
        kept = nearest(inner_products(keys, target.expand(len(keys), -1)), offsets, count)
        numbers = largest_products(keys, target.unsqueeze(0), count)[0]
        assert numbers[numbers > 0].flip(0).tolist() == (kept.nonzero().flatten() + 1).tolist()
        kept = newest(keys[:, 0] == target[0], offsets, count)
        numbers = latest_equal(keys[:, 0], target[:1], count)[0]
        assert numbers[numbers > 0].flip(0).tolist() == (kept.nonzero().flatten() + 1).tolist()


def test_found_events_are_padded_behind_the_oldest_one() -> None:
    events = torch.tensor([[1.0], [2.0], [3.0]])
    search = HistorySearch(kind="hard", field="category", top_k=2)
    values, wanted = torch.tensor([7, 7, 5]), torch.tensor([7, 5, 9])
    padded, lengths = found_events(search, events, values, wanted, events, torch.ones(3, 1))
    assert padded.squeeze(-1).tolist() == [[2.0, 1.0], [3.0, 0.0], [0.0, 0.0]]
    assert lengths.tolist() == [2, 1, 0]
