"""Vocabularies: row 0 is missing, row 1 unknown, the rest follow by falling count."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.data.encoding import vocabulary
from unimixer.data.encoding.vocabulary import Counter, Vocabulary
from unimixer.data.schema import Vocabulary as Policy


def series(texts: list[str | None]) -> pl.Series:
    return pl.Series("text", texts, dtype=pl.String)


def counted(*chunks: list[str | None]) -> Counter:
    counter = Counter()
    for chunk in chunks:
        counter.add(series(chunk))
    return counter


def fitted(texts: list[str | None], **policy: object) -> list[str]:
    return Vocabulary.fit(counted(texts), Policy.model_validate(policy)).texts.to_list()


def test_values_stand_by_falling_count_and_equal_counts_by_the_text() -> None:
    assert fitted(["b", "c", "a", "c", None, "d", "d"]) == ["c", "d", "a", "b"]


def test_rare_values_and_values_beyond_the_size_are_left_out() -> None:
    texts: list[str | None] = ["a", "a", "a", "b", "b", "c"]
    assert fitted(texts, min_count=2) == ["a", "b"]
    assert fitted(texts, max_size=1) == ["a"]
    assert fitted(texts, min_count=4) == []


def test_missing_is_row_0_unknown_row_1_and_known_values_follow() -> None:
    table = Vocabulary(series(["c", "a"]))
    assert table.lookup(series([None, "zzz", "c", "a", "c"])).tolist() == [0, 1, 2, 3, 2]
    assert table.num_embeddings == 4
    assert table.lookup(series([])).tolist() == []


def test_an_empty_vocabulary_knows_missing_and_unknown() -> None:
    table = Vocabulary.fit(Counter(), Policy())
    assert table.num_embeddings == 2
    assert table.lookup(series([None, "a"])).tolist() == [0, 1]


def known(counter: Counter, *texts: str, size: int = 0, **policy: object) -> list[int]:
    """Rows of texts, looked up together with so many unknown ones: few and many are looked up in two ways."""
    table = Vocabulary.fit(counter, Policy.model_validate(policy))
    return table.lookup(series([*texts, *(f"unknown {i}" for i in range(size))]))[: len(texts)].tolist()


@pytest.mark.parametrize("size", [0, vocabulary.FEW])
@pytest.mark.parametrize("policy", [{}, {"policy": "hash", "num_buckets": 1000}])
def test_every_text_of_a_value_finds_its_row(size: int, policy: dict[str, object]) -> None:
    booleans = known(counted(["true", "True", "false"]), "1", "TRUE", "true", "0", "False", size=size, **policy)
    assert booleans[0] == booleans[1] == booleans[2] != booleans[3] == booleans[4]
    numbers = known(counted(["3.50", "4.00", "7"]), "3.5", "3.50", "35e-1", "4", "07", size=size, **policy)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    assert numbers[4] not in numbers[:4]
    days = known(counted(["2024-01-01"]), "2024-01-01", "2024-01-01T00:00:00", size=size, **policy)
    assert days[0] == days[1]


@pytest.mark.parametrize("size", [0, vocabulary.FEW])
def test_texts_that_may_be_two_values_have_two_rows(size: int) -> None:
    versions = known(counted(["1.1", "1.10", "017", "17"]), "1.1", "1.10", "1.100", "017", "17", "17.50", size=size)
    assert sorted(versions) == [1, 1, 2, 3, 4, 5]
    assert versions[2] == versions[5] == 1


def test_counts_of_one_value_are_added_up_before_rare_values_are_left_out() -> None:
    table = Vocabulary.fit(counted(["true", "TRUE", "false"]), Policy(min_count=2))
    assert table.texts.to_list() == ["1"]


def test_the_form_does_not_depend_on_how_the_log_was_shared_out() -> None:
    first, second = counted(["3.5"]), counted(["3.50"])
    assert Vocabulary.fit(Counter.merge([first, second]), Policy()).form == "text"
    second.typed = True
    table = Vocabulary.fit(Counter.merge([first, second]), Policy())
    assert (table.form, table.texts.to_list()) == ("number", ["3.5"])


def test_a_table_without_a_form_takes_texts_as_they_are() -> None:
    assert Vocabulary(series(["1", "3.5"])).lookup(series(["true", "3.50", "1"])).tolist() == [1, 1, 2]


def test_weights_count_a_value_so_many_times_and_0_leaves_it_out() -> None:
    counter = Counter()
    counter.add(series(["a", "b", "c", "b"]), np.array([1, 2, 0, 3]))
    assert dict(counter.counts().sort("text").iter_rows()) == {"a": 1, "b": 5}


@given(st.lists(st.none() | st.sampled_from("abcd"), max_size=30), st.integers(1, 7))
def test_counts_do_not_depend_on_the_chunks(texts: list[str | None], size: int) -> None:
    whole = counted(texts).counts().sort("text")
    pieces = counted(*(texts[i : i + size] for i in range(0, len(texts), size))).counts().sort("text")
    assert whole.equals(pieces)


def test_counts_are_merged_while_they_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = counted(["a", "b"], ["a"])
    monkeypatch.setattr(vocabulary, "MERGE_AT", 2)
    counter.add(series(["c"]))
    assert len(counter._parts) == 1
    assert dict(counter.counts().iter_rows()) == {"a": 2, "b": 1, "c": 1}


def test_a_hash_is_the_same_on_every_machine() -> None:
    table = Vocabulary(num_buckets=1000)
    assert table.lookup(series(["user_1", "ü", None])).tolist() == [42, 527, 0]
    assert table.num_embeddings == 1002


@given(st.lists(st.text(max_size=8), max_size=20), st.integers(1, 50))
def test_a_hash_stays_inside_its_table_and_off_the_first_two_rows(texts: list[str], num_buckets: int) -> None:
    rows = Vocabulary.fit(Counter(), Policy(policy="hash", num_buckets=num_buckets)).lookup(series(list(texts)))
    assert all(2 <= row < 2 + num_buckets for row in rows)
    assert len(set(zip(texts, rows, strict=True))) == len(set(texts))  # one text, one row
