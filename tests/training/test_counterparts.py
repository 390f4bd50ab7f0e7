"""Rows of two vocabularies that stand for one value, whatever texts it has."""

from __future__ import annotations

import polars as pl

from unimixer.data.encoding.vocabulary import Vocabulary
from unimixer.data.raw.values import Form
from unimixer.training.counterparts import Rows


def vocabulary(*texts: str, form: Form = "text") -> Vocabulary:
    return Vocabulary(pl.Series("text", texts, dtype=pl.String), form=form)


def pairs(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.source.tolist(), rows.target.tolist(), strict=True))


def test_rows_of_equal_texts_meet_whatever_their_order() -> None:
    rows = Rows.of_texts(vocabulary("a", "b", "c"), vocabulary("c", "d", "a"))
    assert pairs(rows) == [(0, 0), (1, 1), (4, 2), (2, 4)]
    assert (rows.new, rows.lost) == (1, 1)


def test_a_truth_value_keeps_its_row_where_one_side_has_it_as_text() -> None:
    texts, truths = vocabulary("True", "False", "maybe"), vocabulary("0", "1", form="boolean")
    forth = Rows.of_texts(texts, truths)
    assert pairs(forth) == [(0, 0), (1, 1), (3, 2), (2, 3)]
    assert (forth.new, forth.lost) == (0, 1)
    back = Rows.of_texts(truths, texts)
    assert pairs(back) == [(0, 0), (1, 1), (3, 2), (2, 3)]
    assert (back.new, back.lost) == (1, 0)


def test_of_several_texts_of_one_number_the_most_frequent_gives_the_row() -> None:
    rows = Rows.of_texts(vocabulary("1.50", "1.5", "2"), vocabulary("2", "1.5", form="number"))
    assert pairs(rows) == [(0, 0), (1, 1), (4, 2), (3, 3)]  # the same text comes before another text of the value
    rows = Rows.of_texts(vocabulary("1.50", "1.500"), vocabulary("1.5", form="number"))
    assert pairs(rows) == [(0, 0), (1, 1), (2, 2)]
    assert (rows.new, rows.lost) == (0, 0)
