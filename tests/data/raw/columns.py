"""One raw column as a chunk, and the sentence of a refusal, for tests of values."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError

FIRST_ROW = 41


def chunk(*rows: Any, dtype: Any = None) -> Chunk:
    """One column ``x``, whose rows are numbered from ``FIRST_ROW`` on."""
    return Chunk(pl.DataFrame({"x": pl.Series(rows, dtype=dtype, strict=False)}), "log.csv", FIRST_ROW)


def message(function: Any, *arguments: Any, **options: Any) -> str:
    """The one line with which a function refuses."""
    with pytest.raises(UnimixerError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
