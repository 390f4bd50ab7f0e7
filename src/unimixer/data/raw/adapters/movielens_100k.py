"""MovieLens 100k: ``u.data``, ``u.user`` and ``u.item``; 100,000 ratings of 943 users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from unimixer.data.raw.adapters.base import categorical, locate, parse_options
from unimixer.data.raw.adapters.movielens import Options, movielens_tables, read_fields, sorted_ratings
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import Feature, Vocabulary

SOURCE = "movielens-100k"
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
USER_COLUMNS = ("user_id", "age", "gender", "occupation", "zip_code")
MOVIE_COLUMNS = ("movie_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES)


def load(raw: Path | None, **options: Any) -> RawTables:
    """Open MovieLens 100k; ``options`` are the fields of :class:`~unimixer.data.raw.adapters.movielens.Options`."""
    chosen = parse_options(Options, SOURCE, options)
    folder = locate(raw, "u.data", "ratings", source=SOURCE)
    known = Vocabulary(min_count=chosen.min_count)
    return movielens_tables(
        SOURCE,
        chosen,
        ratings=sorted_ratings(folder / "u.data", "\t"),
        users=read_fields(folder / "u.user", "|", USER_COLUMNS),
        movies=_with_genres(read_fields(folder / "u.item", "|", MOVIE_COLUMNS)),
        user_features=(
            Feature(name="age", kind="numeric", domain="user", transform="bucketise"),
            *(categorical(name, "user", known) for name in ("gender", "occupation", "zip_code")),
        ),
        files=[folder / name for name in ("u.data", "u.user", "u.item")],
    )


def _with_genres(movies: Chunk) -> Chunk:
    names = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    genres = pl.concat_str(names, separator="|", ignore_nulls=True).alias("genres")
    return Chunk(movies.frame.select("movie_id", "title", genres), movies.source)
