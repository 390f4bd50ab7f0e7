"""MovieLens 1M: ``ratings.dat``, ``users.dat`` and ``movies.dat``; 1,000,209 ratings of 6,040 users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unimixer.data.raw.adapters.base import categorical, locate, parse_options
from unimixer.data.raw.adapters.movielens import Options, movielens_tables, read_fields, sorted_ratings
from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import Vocabulary

SOURCE = "movielens-1m"
USER_COLUMNS = ("user_id", "gender", "age", "occupation", "zip_code")
MOVIE_COLUMNS = ("movie_id", "title", "genres")


def load(raw: Path | None, **options: Any) -> RawTables:
    """Open MovieLens 1M; ``options`` are the fields of :class:`~unimixer.data.raw.adapters.movielens.Options`."""
    chosen = parse_options(Options, SOURCE, options)
    folder = locate(raw, "ratings.dat", "ratings", source=SOURCE)
    known = Vocabulary(min_count=chosen.min_count)
    return movielens_tables(
        SOURCE,
        chosen,
        ratings=sorted_ratings(folder / "ratings.dat", "::"),
        users=read_fields(folder / "users.dat", "::", USER_COLUMNS),
        movies=read_fields(folder / "movies.dat", "::", MOVIE_COLUMNS),
        # age and occupation are codes of groups in this release
        user_features=tuple(categorical(name, "user", known) for name in USER_COLUMNS[1:]),
        files=[folder / name for name in ("ratings.dat", "users.dat", "movies.dat")],
    )
