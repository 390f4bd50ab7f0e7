"""Both sizes of MovieLens: separators, genres, years, order of time."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.data.encoding.history import happened
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.tables import RawTables
from unimixer.data.raw.values import as_label
from unimixer.errors import UnimixerError


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "u.data").write_text("1\t10\t4\t300\n2\t11\t3\t100\n1\t11\t5\t200\n2\t10\t1\t200\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    flags = {"10": {3, 4, 5}, "11": {0}}
    titles = {"10": "Toy Story (1995)|01-Jan-1995||http://x", "11": "Caf\xe9 (de)|||"}
    lines = [f"{m}|{titles[m]}|" + "|".join(str(int(i in flags[m])) for i in range(19)) for m in titles]
    (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
    return tmp_path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "ratings.dat").write_text("1::10::4::300\n2::11::3::100\n1::11::5::200\n2::10::1::200\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    films = "10::Toy Story (1995)::Animation|Children's|Comedy\n11::Star Wars: \xc9pisode IV (1977)::Action\n"
    (tmp_path / "movies.dat").write_text(films, encoding="latin-1")
    return tmp_path


def items(tables: RawTables) -> list[tuple[object, ...]]:
    assert tables.items is not None
    return tables.items.frame.select("movie_id", "title", "year", "genres", "main_genre").rows()


def test_ratings_come_in_the_order_of_time_and_keep_it_within_a_second(small: Path, large: Path) -> None:
    for source, raw in (("movielens-100k", small), ("movielens-1m", large)):
        tables = open_raw(source, raw)
        [chunk] = tables.impressions()
        assert chunk.frame.select("user_id", "movie_id", "timestamp").rows() == [
            ("2", "11", 100),
            ("1", "11", 200),
            ("2", "10", 200),
            ("1", "10", 300),
        ]
        assert "sorted by time" in chunk.at(0)
        assert tables.num_rows == 4
        assert len(tables.files) == 3
        assert all(file.is_file() for file in tables.files)


def test_a_film_is_liked_from_a_rating_on(small: Path) -> None:
    tables = open_raw("movielens-100k", small)
    [chunk] = tables.impressions()
    assert as_label(chunk, tables.schema.labels[0]).tolist() == [0, 1, 0, 1]
    assert [happened(h, tables.schema, chunk).tolist() for h in tables.schema.histories] == [
        [True] * 4,
        [False, True, False, True],
    ]
    assert tables.schema.labels[0].threshold == 4
    label = open_raw("movielens-100k", small, threshold=5).schema.labels[0]
    assert as_label(chunk, label).tolist() == [0, 1, 0, 0]


def test_genre_flags_and_genre_names_become_the_same_lists(small: Path, large: Path) -> None:
    assert items(open_raw("movielens-100k", small)) == [
        ("10", "Toy Story (1995)", "1995", "Animation|Children's|Comedy", "Animation"),
        ("11", "Café (de)", None, "unknown", "unknown"),
    ]
    assert items(open_raw("movielens-1m", large)) == [
        ("10", "Toy Story (1995)", "1995", "Animation|Children's|Comedy", "Animation"),
        ("11", "Star Wars: Épisode IV (1977)", "1977", "Action", "Action"),
    ]


def test_features_read_columns_that_the_tables_have(small: Path, large: Path) -> None:
    for source, raw in (("movielens-100k", small), ("movielens-1m", large)):
        tables = open_raw(source, raw)
        assert tables.users is not None
        assert tables.items is not None
        known = {*tables.users.frame.columns, *tables.items.frame.columns, "timestamp"}
        assert {f.column for f in tables.schema.features} <= known
        assert not {"rating", "liked"} & {f.column for f in tables.schema.features}


def test_a_ragged_row_and_a_wrong_rating_are_named(small: Path) -> None:
    ratings = small / "ml-100k" / "u.data"
    ratings.write_text("1\t10\t4\t300\n1\t10\n")
    with pytest.raises(UnimixerError, match=r"u.data, row 2: expected 4 fields, found 2 "):
        open_raw("movielens-100k", small)
    ratings.write_text("1\t10\t4\t300\n1\t10\tgood\t300\n")
    with pytest.raises(UnimixerError, match=r"u.data, row 2: rating='good' is not a number"):
        open_raw("movielens-100k", small)


def test_a_missing_file_is_named(large: Path) -> None:
    (large / "users.dat").unlink()
    with pytest.raises(UnimixerError, match=r"users.dat: no such file"):
        open_raw("movielens-1m", large)


def test_the_test_part_cannot_begin_before_the_validation_part(large: Path) -> None:
    with pytest.raises(UnimixerError, match=r"validation=0.9 must be less than test=0.8"):
        open_raw("movielens-1m", large, validation=0.9, test=0.8)
