"""Helpers of adapters: typed options, the search for a folder, short forms for features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator

from unimixer.data.raw.folders import find_files
from unimixer.data.schema import Feature, Vocabulary
from unimixer.errors import UnimixerError, nearest
from unimixer.settings import Settings, parse

Domain = Literal["user", "item", "context"]
OptionsType = TypeVar("OptionsType", bound=Settings)


def _split_names(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
"""Names as a list, or as one text with commas, which is how the command line gives them."""


def parse_options(model: type[OptionsType], source: str, options: dict[str, Any]) -> OptionsType:
    """Check the options of an adapter.

    Raises:
        UnimixerError: an unknown option, with the nearest one, or a value that does not fit.
    """
    for name in options:
        if name not in model.model_fields:
            raise UnimixerError(f"{source}: unknown option {name!r}{nearest(name, model.model_fields)}")
    return parse(model, options, where=f"{source}, option")


def locate(raw: Path | None, pattern: str | Sequence[str], what: str, *, source: str) -> Path:
    """Find the folder with the raw files: ``raw`` itself, or a folder at most two levels below it.

    Raises:
        UnimixerError: there is none; it lists what was looked for.
    """
    if raw is None:
        raise UnimixerError(f"{source} is read from a folder with {what}, but none was given; name it with --raw")
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    for depth in ("", "*/", "*/*/"):
        for one in patterns:
            folders = sorted({path.parent for path in raw.glob(depth + one)})
            if len(folders) > 1:
                raise UnimixerError(f"{folders[0]} and {folders[1]} both hold {what}; name one of them with --raw")
            if folders:
                return folders[0]
    find_files(raw, patterns, what)  # says what is missing
    return raw


def categorical(name: str, domain: Domain, vocabulary: Vocabulary, *, missing: tuple[str, ...] = ("",)) -> Feature:
    """Return a categorical feature that is read from the column of its name."""
    return Feature(name=name, kind="categorical", domain=domain, vocabulary=vocabulary, missing=missing)


def calendar(time: str) -> tuple[Feature, Feature]:
    """Return the hour of the day and the day of the week of the time column as features."""
    return (
        Feature(name="hour_of_day", kind="categorical", domain="context", source=time, transform="hour"),
        Feature(name="weekday", kind="categorical", domain="context", source=time, transform="weekday"),
    )


def past(history: str, source: str, table: str, vocabulary: Vocabulary, max_length: int) -> Feature:
    """Return a feature that reads one column of the past items, with the embedding table of the candidate's feature."""
    return Feature(
        name=f"{history}_{table}",
        kind="sequence",
        domain="behaviour",
        source=source,
        table=table,
        vocabulary=vocabulary,
        history=history,
        max_length=max_length,
    )
