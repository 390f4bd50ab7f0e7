"""Counts of earlier impressions, as columns that a schema adds to the log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from unimixer.settings import Settings


class Count(Settings):
    """A column of the log that counts earlier impressions: those with the same values in some columns.

    With ``prior`` the column is a rate, (n + prior m) / (N + prior): n of N such impressions had the event, and m is
    the rate of all earlier impressions of the log in which no value of ``by`` is missing.
    """

    name: str
    """Name of the new column, which a feature reads like any column of the log."""
    by: tuple[str, ...] = Field(min_length=1)
    """Columns whose values must be equal, such as the item's key, or the user's key and the page; they stand in the
    log, or else in the tables of users and items."""
    event: str | None = None
    """Column of the log that must be 1 for an impression to count, or a label (default: every impression counts)."""
    until: Literal["impression", "day"] = "impression"
    """Count up to the time of the impression, or up to the beginning of its day in ``keys.timezone``."""
    prior: PositiveFloat | None = None
    """Weight of the rate of all impressions, in impressions (default: the column is the number, and no rate)."""

    @model_validator(mode="after")
    def _rate_of_an_event(self) -> Count:
        if self.prior is not None and self.event is None:
            raise ValueError(f"count {self.name!r} has a prior and so is a rate; name the event that it is the rate of")
        return self
