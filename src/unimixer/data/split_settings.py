"""Settings of the split of a log into training, validation and test rows."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from unimixer.settings import Settings


class DateSplit(Settings):
    """Rows before ``validation`` train, rows before ``test`` validate, the rest tests."""

    by: Literal["date"] = "date"
    validation: date
    test: date


class QuantileSplit(Settings):
    """Split by quantiles of time."""

    by: Literal["quantile"] = "quantile"
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.8
    test: Annotated[float, Field(gt=0, lt=1)] = 0.9


class RandomSplit(Settings):
    """Split at random by shares of the rows; it mixes past and future, so it must be asked for."""

    by: Literal["random"] = "random"
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: int = 0


class ColumnSplit(Settings):
    """Split by a column that says ``train``, ``validation`` or ``test``: the rows of a published split.

    A row with an empty value is in no part; it is only an event of the histories.
    """

    by: Literal["column"] = "column"
    column: str
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows that validate, chosen by a hash of their row, where no row says ``validation``."""


Split = Annotated[DateSplit | QuantileSplit | RandomSplit | ColumnSplit, Field(discriminator="by")]
