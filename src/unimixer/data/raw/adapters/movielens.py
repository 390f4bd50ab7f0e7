"""MovieLens 100k and 1M: film ratings as impressions that were liked or not (Harper and Konstan, TiiS 2015).

The first has ``u.data``, ``u.user`` and ``u.item``, 100,000 ratings of 943 users; the second ``ratings.dat``,
``users.dat`` and ``movies.dat``, 1,000,209 ratings of 6,040 users.

The rating files are not in the order of time, so they are read whole and sorted (stable) by their timestamp before the
first chunk is handed over; the larger one has 1,000,209 rows. Fields stand between tabs, ``|`` or ``::``, the text is
Latin-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import PositiveInt

from unimixer.data.file_settings import Files
from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import calendar, categorical, locate, parse_options, past
from unimixer.data.raw.readers import read_table
from unimixer.data.raw.tables import CHUNK_ROWS, Chunk, RawTables
from unimixer.data.schema import Feature, History, Keys, Schema, Vocabulary
from unimixer.data.split_settings import QuantileSplit
from unimixer.errors import UnimixerError
from unimixer.settings import Settings

RATING_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
LIKED = "liked"
GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The 0/1 columns of ``u.item``, in the order of ``u.genre``."""


class Options(Settings):
    """Options for reading MovieLens."""

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


def _read_fields(path: Path, separator: str, header: Sequence[str]) -> Chunk:
    """Read a small file of the data set, all columns as text."""
    return read_table(path, files=Files(separator=separator, header=tuple(header), encoding="latin-1", quote=""))


def _sorted_ratings(path: Path, separator: str) -> Chunk:
    """Read the ratings and sort them by time; rows of one second keep their order."""
    chunk = _read_fields(path, separator, RATING_COLUMNS)
    for name, dtype in (("rating", pl.Float64), ("timestamp", pl.Int64)):
        numbers = chunk.frame.get_column(name).cast(dtype, strict=False)
        if numbers.null_count():
            row = int(numbers.is_null().arg_max() or 0)
            value = chunk.frame.get_column(name)[row]
            raise UnimixerError(f"{chunk.at(row)}: {name}={value!r} is not a number; correct the row")
    frame = chunk.frame.with_columns(pl.col("rating").cast(pl.Float64), pl.col("timestamp").cast(pl.Int64))
    return Chunk(frame.sort("timestamp", maintain_order=True), f"{path} (sorted by time)")


@dataclass(frozen=True)
class Release:
    """The tables of a release of MovieLens."""

    name: str
    ratings: Chunk
    users: Chunk
    movies: Chunk
    """Has ``movie_id``, ``title`` and ``genres`` (names between ``|``)."""
    user_features: tuple[Feature, ...]
    files: tuple[Path, ...]


def _raw_tables(release: Release, options: Options) -> RawTables:
    """Return the raw tables of a release, with the schema that all releases share."""
    name = release.name
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
            *release.user_features,
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
    described = release.movies.frame.with_columns(
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").alias("year"),
        pl.col("genres").str.split("|").list.first().alias("main_genre"),
    )
    return RawTables(
        schema=schema,
        impressions=_slices(release.ratings),
        users=release.users,
        items=Chunk(described, release.movies.source),
        files=release.files,
        num_rows=release.ratings.frame.height,
    )


def _slices(chunk: Chunk) -> Callable[[], Iterator[Chunk]]:
    def passes() -> Iterator[Chunk]:
        for start in range(0, chunk.frame.height, CHUNK_ROWS):
            yield Chunk(chunk.frame.slice(start, CHUNK_ROWS), chunk.source, first_row=start + 1)

    return passes


# ---- MovieLens 100k -------------------------------------------------------------------------------------------------


def load_100k(raw: Path | None, **options: Any) -> RawTables:
    """Open MovieLens 100k; ``options`` are the fields of :class:`Options`."""
    name = "movielens-100k"
    chosen = parse_options(Options, name, options)
    folder = locate(raw, "u.data", "ratings", source=name)
    known = Vocabulary(min_count=chosen.min_count)
    movie_columns = ("movie_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES)
    release = Release(
        name,
        ratings=_sorted_ratings(folder / "u.data", "\t"),
        users=_read_fields(folder / "u.user", "|", ("user_id", "age", "gender", "occupation", "zip_code")),
        movies=_with_genres(_read_fields(folder / "u.item", "|", movie_columns)),
        user_features=(
            Feature(name="age", kind="numeric", domain="user", transform="bucketise"),
            *(categorical(name, "user", known) for name in ("gender", "occupation", "zip_code")),
        ),
        files=tuple(folder / name for name in ("u.data", "u.user", "u.item")),
    )
    return _raw_tables(release, chosen)


def _with_genres(movies: Chunk) -> Chunk:
    names = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    genres = pl.concat_str(names, separator="|", ignore_nulls=True).alias("genres")
    return Chunk(movies.frame.select("movie_id", "title", genres), movies.source)


# ---- MovieLens 1M ---------------------------------------------------------------------------------------------------


def load_1m(raw: Path | None, **options: Any) -> RawTables:
    """Open MovieLens 1M; ``options`` are the fields of :class:`Options`."""
    name = "movielens-1m"
    chosen = parse_options(Options, name, options)
    folder = locate(raw, "ratings.dat", "ratings", source=name)
    known = Vocabulary(min_count=chosen.min_count)
    user_columns = ("user_id", "gender", "age", "occupation", "zip_code")
    release = Release(
        name,
        ratings=_sorted_ratings(folder / "ratings.dat", "::"),
        users=_read_fields(folder / "users.dat", "::", user_columns),
        movies=_read_fields(folder / "movies.dat", "::", ("movie_id", "title", "genres")),
        # age and occupation are codes of groups in this release
        user_features=tuple(categorical(name, "user", known) for name in user_columns[1:]),
        files=tuple(folder / name for name in ("ratings.dat", "users.dat", "movies.dat")),
    )
    return _raw_tables(release, chosen)
