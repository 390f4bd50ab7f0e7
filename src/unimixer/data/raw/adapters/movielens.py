"""MovieLens: film ratings as impressions that were liked or not (Harper and Konstan, TiiS 2015).

The rating files are not in the order of time, so they are read whole and sorted (stable) by their timestamp before the
first chunk is handed over; the larger one has 1,000,209 rows. Fields stand between tabs, ``|`` or ``::``, the text is
Latin-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
from pydantic import PositiveInt

from unimixer.data.raw.adapters.base import calendar, categorical, past
from unimixer.data.raw.readers import read_table
from unimixer.data.raw.tables import CHUNK_ROWS, Chunk, RawTables
from unimixer.data.schema import Feature, Files, History, Keys, Label, QuantileSplit, Schema, Vocabulary
from unimixer.errors import UnimixerError
from unimixer.settings import Settings

RATING_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
LIKED = "liked"


class Options(Settings):
    """What may be chosen when MovieLens is read."""

    threshold: float = 4.0
    """A film was liked where its rating is at least this."""
    validation: float = 0.8
    """Quantile of time at which the validation part begins."""
    test: float = 0.9
    """Quantile of time at which the test part begins."""
    min_count: PositiveInt = 1
    """Values seen fewer times in the training part become out-of-vocabulary."""
    max_length: PositiveInt = 50
    """Longest history."""


def read_fields(path: Path, separator: str, header: Sequence[str]) -> Chunk:
    """Read a small file of the data set, all columns as text."""
    return read_table(path, files=Files(separator=separator, header=tuple(header), encoding="latin-1", quote=""))


def sorted_ratings(path: Path, separator: str) -> Chunk:
    """The ratings in the order of time; rows of one second keep their order."""
    chunk = read_fields(path, separator, RATING_COLUMNS)
    for name, dtype in (("rating", pl.Float64), ("timestamp", pl.Int64)):
        numbers = chunk.frame.get_column(name).cast(dtype, strict=False)
        if numbers.null_count():
            row = int(numbers.is_null().arg_max() or 0)
            value = chunk.frame.get_column(name)[row]
            raise UnimixerError(f"{chunk.at(row)}: {name}={value!r} is not a number; correct the row")
    frame = chunk.frame.with_columns(pl.col("rating").cast(pl.Float64), pl.col("timestamp").cast(pl.Int64))
    return Chunk(frame.sort("timestamp", maintain_order=True), f"{path} (sorted by time)")


def movielens_tables(
    name: str,
    options: Options,
    ratings: Chunk,
    users: Chunk,
    movies: Chunk,
    user_features: Sequence[Feature],
    files: Sequence[Path],
) -> RawTables:
    """The tables and the schema that both sizes of MovieLens share.

    ``movies`` needs ``movie_id``, ``title`` and ``genres`` (names between ``|``).
    """
    if not options.validation < options.test:
        raise UnimixerError(f"{name}: validation={options.validation} must be less than test={options.test}")
    known = Vocabulary(min_count=options.min_count)
    genre = {"table": "genre", "vocabulary": known}
    histories = {"watched": None, LIKED: LIKED}
    schema = Schema(
        name=name,
        keys=Keys(user="user_id", item="movie_id", time="timestamp", time_format="s"),
        labels=(Label(name=LIKED, source="rating", threshold=options.threshold),),
        split=QuantileSplit(validation=options.validation, test=options.test),
        histories=tuple(History(name=h, event=e, max_length=options.max_length) for h, e in histories.items()),
        features=(
            categorical("user_id", "user", known),
            *user_features,
            categorical("movie_id", "item", known),
            categorical("year", "item", known),
            Feature.model_validate({"name": "main_genre", "kind": "categorical", "domain": "item", **genre}),
            Feature.model_validate(
                {"name": "genres", "kind": "sequence", "domain": "item", "separator": "|", "max_length": 8, **genre}
            ),
            *calendar("timestamp"),
            *(
                past(history, source, table, known, options.max_length)
                for history in histories
                for source, table in (("movie_id", "movie_id"), ("main_genre", "genre"))
            ),
        ),
    )
    described = movies.frame.with_columns(
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("year"),
        pl.col("genres").str.split("|").list.first().alias("main_genre"),
    )
    return RawTables(
        schema=schema,
        impressions=_slices(ratings),
        users=users,
        items=Chunk(described, movies.source),
        files=tuple(files),
        num_rows=ratings.frame.height,
    )


def _slices(chunk: Chunk) -> Callable[[], Iterator[Chunk]]:
    def passes() -> Iterator[Chunk]:
        for start in range(0, chunk.frame.height, CHUNK_ROWS):
            yield Chunk(chunk.frame.slice(start, CHUNK_ROWS), chunk.source, first_row=start + 1)

    return passes
