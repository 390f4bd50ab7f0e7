"""Tables with fewer rows than ids: who has a row gets it, all others share the last."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_fields import SPEC, batch, build, pieces

from unimixer.errors import UnimixerError
from unimixer.features.managed import EMPTY, ManagedIds, ManagedTables


def filled(num_rows: int, ids: list[int]) -> ManagedIds:
    table = ManagedIds(num_rows)
    table.ids[: len(ids)] = torch.tensor(sorted(ids))
    table.rows[:-1] = table.rows[:-1].flip(0)
    return table


@given(
    st.sets(st.integers(0, 2**31 - 2), max_size=40),
    st.lists(st.integers(0, 2**31 - 2), max_size=20),
    st.integers(1, 9),
)
def test_both_searches_find_what_a_dictionary_finds(held: set[int], asked: list[int], spare: int) -> None:
    table = filled(len(held) + spare, list(held))
    row_of = {int(i): int(row) for i, row in zip(table.ids, table.rows, strict=True) if int(i) != EMPTY}
    ids = torch.tensor([*asked, *held], dtype=torch.int32)
    expected = [row_of.get(int(i), len(table.rows) - 1) for i in ids]
    assert table(ids).tolist() == expected
    assert table(ids).dtype == torch.int32
    assert torch.equal(table._bisect(ids.long()), table.find(ids.long()))


def test_an_empty_map_gives_all_ids_the_shared_row() -> None:
    assert ManagedIds(5)(torch.tensor([[0, 3], [70_000, 4]])).tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize("encoder", ["mean", "target_attention"])
def test_ids_with_a_row_have_the_vectors_of_that_row(encoder: str) -> None:
    plain = build(sequence_encoder=encoder)
    managed = build(sequence_encoder=encoder, managed_embeddings={"item": 4, "user": 3})
    item, user = managed.managed.of("item"), managed.managed.of("user")
    assert item is not None
    assert user is not None
    item.ids[:2], user.ids[:2] = torch.tensor([2, 5]), torch.tensor([0, 3])
    item.rows[:], user.rows[:] = torch.tensor([1, 0, 2, 3]), torch.tensor([0, 1, 2])
    rows = {"item": [3, 3, 1, 3, 3, 0], "user": [0, 2, 2, 1]}  # of every id; the last row is that of all others
    with torch.no_grad():
        for name, of_id in rows.items():
            for number, row in enumerate(of_id):
                to, at = plain.tables.first_row(name) + number, managed.tables.first_row(name) + row
                plain.tables.of_width(4).weight[to] = managed.tables.of_width(4).weight[at]
        for name in ("hour", "tag"):
            count, to, at = SPEC.tables[name], plain.tables.first_row(name), managed.tables.first_row(name)
            plain.tables.of_width(4).weight[to : to + count] = managed.tables.of_width(4).weight[at : at + count]
    plain.load_state_dict({k: v for k, v in managed.state_dict().items() if "tables" not in k}, strict=False)
    ours, theirs = pieces(managed, managed(batch())), pieces(plain, plain(batch()))
    for name, vectors in ours.items():
        torch.testing.assert_close(vectors, theirs[name], msg=name)


def test_a_table_holds_the_managed_rows_and_no_more() -> None:
    module = build(managed_embeddings={"item": 4})
    assert module.tables.num_embeddings == {"hour": 5, "user": 4, "item": 4, "tag": 3}
    module.check(batch())  # ids up to those of the data are good
    assert {name for name in module.state_dict() if "managed" in name} == {
        "managed.maps.0.ids",
        "managed.maps.0.rows",
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [({"itme": 4}, "did you mean 'item'"), ({"item": 1}, "at least 2")],
)
def test_a_mistake_is_named(rows: dict[str, int], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        ManagedTables(SPEC, rows)


def test_without_managed_tables_a_batch_is_left_as_it_is() -> None:
    given: Callable[..., object] = ManagedTables(SPEC, {})
    one = batch()
    assert given(one) is one
