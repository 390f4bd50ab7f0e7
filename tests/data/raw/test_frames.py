"""Rows in memory come in many forms, and are the same rows in each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import polars as pl
import pyarrow as pa
import pytest

from unimixer.data.raw.frames import frame_of
from unimixer.errors import UnimixerError

FRAME = pl.DataFrame({"user_id": ["u1", None, "u3"], "price": [1.5, None, 3.0], "words": [["a"], [], ["b", "c"]]})


class Stream:
    """A frame of an unknown library that offers the Arrow stream alone."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def forms(frame: pl.DataFrame) -> dict[str, Any]:
    """The same rows in every form."""
    table, columns = frame.to_arrow(), frame.to_dict(as_series=False)
    return {
        "polars": frame,
        "lazy": frame.lazy(),
        "pandas": pandas.DataFrame(columns, index=range(5, 5 + frame.height)),
        "table": table,
        "record batch": table.to_batches()[0],
        "reader": pa.RecordBatchReader.from_batches(table.schema, table.to_batches()),
        "stream": Stream(frame),
        "columns": columns,
        "rows": frame.to_dicts(),
    }


@pytest.mark.parametrize("form", list(forms(FRAME)))
def test_the_same_rows_come_out_of_every_form(form: str) -> None:
    found = frame_of(forms(FRAME)[form])
    assert found.columns == FRAME.columns
    assert found.rows() == FRAME.rows()


def test_types_of_pandas_keep_their_values_and_nan_in_objects_is_missing() -> None:
    frame = pandas.DataFrame(
        {
            "object": pandas.Series(["a", float("nan"), None], dtype=object),
            "whole": pandas.array([1, None, 2**53 + 1], dtype="Int64"),
            "boolean": pandas.array([True, None, False], dtype="boolean"),
            "category": pandas.Categorical(["x", None, "x"]),
            "codes": pandas.Categorical([7, 8, None]),
            "ids": pandas.Series(["a1", 2, None], dtype=object),
            "number": [0.5, np.nan, 2.0],
            "time": pandas.to_datetime(["2020-01-01", None, "2020-01-03"]),
        }
    )
    found = frame_of(frame.set_index(pandas.Index([3, 1, 2], name="number")))
    assert found.drop("time").rows() == [
        ("a", 1, True, "x", 7, "a1", 0.5),
        (None, None, None, None, 8, "2", None),
        (None, 2**53 + 1, False, "x", None, None, 2.0),
    ]
    assert found["time"].dt.year().to_list() == [2020, None, 2020]


def test_a_mapping_of_single_values_is_one_row_and_mixed_numbers_are_numbers() -> None:
    assert frame_of({"user_id": "u1", "price": 2}).rows() == [("u1", 2)]
    assert frame_of([{"price": 1}, {"price": 2.5, "tab": "x"}]).rows() == [(1.0, None), (2.5, "x")]
    assert frame_of({"ids": np.array(["a", np.nan, None], dtype=object)}).rows() == [("a",), (None,), (None,)]
    assert frame_of({"ids": np.array([1, 2])}).rows() == [(1,), (2,)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (5, "expected a polars or pandas frame, an Arrow table .* path of a file or folder; found builtins.int"),
        (None, "found builtins.NoneType"),
        ([1, 2], "found builtins.list"),
        (np.zeros((2, 2)), "found numpy.ndarray"),
        (SimpleNamespace(a=1), "found types.SimpleNamespace"),
        ({"a": [1, 2], "b": [1]}, "column 'a' has 2 values and column 'b' 1; give as many of each"),
        ({"a": 1, "b": [1]}, "column 'a' is one value and column 'b' a list; give lists of all"),
        ({"a": [1.5, "x"]}, "column 'a' has values of no one type"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "column 'a' is there twice; rename one of them"),
    ],
)
def test_what_is_no_table_is_one_sentence(rows: Any, message: str) -> None:
    with pytest.raises(UnimixerError, match=f"^rows: .*{message}"):
        frame_of(rows)
