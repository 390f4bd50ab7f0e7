"""Fitting: the transform is learned from the training part, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy import DAY, SCHEMA, START, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data.encoding.fit import fit
from unimixer.data.encoding.layout import resolve
from unimixer.data.encoding.transform import Transform
from unimixer.data.raw.passes import LogReader
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.errors import UnimixerError

FEATURES = {feature["name"]: feature for feature in SCHEMA["features"]}


def fitted(tables: RawTables) -> Transform:
    return fit(resolve(tables), LogReader(tables)).transform


def known(transform: Transform, table: str) -> set[str]:
    return set(transform.vocabularies[table].texts)


def day(number: int) -> int:
    """A time on a day of the small world: 0-5 train, 6-7 validation, 8-9 test."""
    return START + number * DAY


def log(*rows: tuple[Any, ...], columns: tuple[str, ...] = ("user_id", "item_id", "day", "is_click")) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=list(columns), orient="row", infer_schema_length=None)
    times = pl.Series("time_ms", [day(d) + n for n, d in enumerate(frame["day"])])
    return frame.with_columns(times, pl.Series("watch_s", [20 * (n % 2) for n in range(frame.height)]))


def small(
    rows: list[tuple[Any, ...]],
    features: list[dict[str, Any]],
    *extra: str,
    users: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    **schema: Any,
) -> RawTables:
    """Some rows of user, item, day, click and ``extra`` columns."""
    frame = log(*rows, columns=("user_id", "item_id", "day", "is_click", *extra))
    return tables_of(toy_schema(features=features, **{"histories": [], **schema}), frame, users, items)


CONTEXT = {"name": "x", "kind": "categorical", "domain": "context"}
ONE_EACH = [("u1", "i1", 0), ("u1", "i1", 1), ("u2", "i2", 6), ("u3", "i3", 8)]


# ---- nothing from validation or test ------------------------------------------------------------


def test_a_value_that_occurs_after_the_training_part_only_is_unknown() -> None:
    tables = toy_tables()
    transform = fitted(tables)
    assert known(transform, "tab") == {"home", "feed"}  # not "late"
    assert "u0" not in known(transform, "user_id")
    assert "i0" not in known(transform, "item_id")
    (chunk,) = tables.impressions()
    batch, names = transform.raw_batch(chunk), [f.name for f in transform.spec.ids]
    for name, value in (("tab", "late"), ("user_id", "u0"), ("item_id", "i0")):
        ids = batch.sparse_ids[:, names.index(name)].numpy()
        np.testing.assert_array_equal(ids == 1, (chunk.frame[name] == value).to_numpy())


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (CONTEXT, ["a", "b", "later", "late"]),
        ({**CONTEXT, "kind": "sequence"}, [["a"], ["b", "a"], ["later", "a"], ["late"]]),
    ],
    ids=["category", "list"],
)
def test_a_context_value_is_learned_from_training_rows_alone(feature: dict[str, Any], values: list[Any]) -> None:
    rows = [(*row, n % 2, value) for n, (row, value) in enumerate(zip(ONE_EACH, values, strict=True))]
    assert known(fitted(small(rows, [feature], "x")), "x") == {"a", "b"}


@pytest.mark.parametrize("kind", ["categorical", "sequence"])
@pytest.mark.parametrize("domain", ["user", "item"])
def test_a_value_of_an_entity_that_trains_nowhere_is_not_learned(kind: str, domain: str) -> None:
    values = ["a", "b", "c", "d"]
    frame = pl.DataFrame({f"{domain}_id": [f"{domain[0]}{n}" for n in (1, 2, 3, 4)], "x": values})
    if kind == "sequence":
        frame = frame.with_columns(pl.col("x").str.split("|"))
    rows = [(*row, n % 2) for n, row in enumerate(ONE_EACH)]
    tables = small(rows, [{**CONTEXT, "domain": domain, "kind": kind}], **{f"{domain}s": frame})
    assert known(fitted(tables), "x") == {"a"}


def test_counts_of_an_entity_value_are_those_of_its_training_impressions() -> None:
    items = pl.DataFrame({"item_id": ["i1", "i2", "i3"], "x": ["a", "b", "a"]})
    rows = [("u", "i1", 0, 0), ("u", "i2", 0, 1), ("u", "i2", 0, 1), ("u", "i3", 6, 1), ("u", "i3", 8, 0)]
    feature = {**CONTEXT, "domain": "item", "vocabulary": {"min_count": 2}}
    assert known(fitted(small(rows, [feature], items=items)), "x") == {"b"}


def test_moments_and_quantiles_are_those_of_training_rows() -> None:
    values = [1.0, 3.0, 1000.0, -1000.0]
    rows = [(*row, n % 2, value) for n, (row, value) in enumerate(zip(ONE_EACH, values, strict=True))]
    feature = {**CONTEXT, "kind": "numeric", "transform": "standardise"}
    numeric = fitted(small(rows, [feature], "x")).numerics["x"]
    assert (numeric.mean, numeric.std) == (2, 1)
    bucketised = fitted(small(rows, [{**feature, "transform": "bucketise", "num_buckets": 2}], "x"))
    assert bucketised.numerics["x"].edges == (2,)
    assert bucketised.spec.tables["x"] == 4  # missing, unknown, below, above


def test_moments_of_an_entity_number_count_its_training_impressions() -> None:
    items = pl.DataFrame({"item_id": ["i1", "i2", "i3"], "x": [0.0, 3.0, 1e9]})
    rows = [("u", "i1", 0, 0), ("u", "i1", 0, 1), ("u", "i2", 0, 1), ("u", "i3", 6, 1), ("u", "i3", 8, 0)]
    feature = {**CONTEXT, "domain": "item", "kind": "numeric", "transform": "standardise"}
    numeric = fitted(small(rows, [feature], items=items)).numerics["x"]
    np.testing.assert_allclose([numeric.mean, numeric.std], [1, 2**0.5])


# ---- where a feature stands ------------------------------------------------------------


def test_a_feature_stands_in_the_table_of_its_domain_where_that_has_the_column() -> None:
    resolved = {f.name: f.origin for f in resolve(toy_tables()).features}
    assert resolved == {
        **dict.fromkeys(["user_id", "age", "interests"], "users"),
        **dict.fromkeys(["item_id", "category", "price", "picture", "clicked_items", "clicked_categories"], "items"),
        **dict.fromkeys(["hour", "tab", "position", "words"], "impressions"),
    }


def test_a_user_feature_that_only_the_log_has_is_read_from_the_log() -> None:
    rows = [(*row, n % 2, "v") for n, row in enumerate(ONE_EACH)]
    assert resolve(small(rows, [{**CONTEXT, "domain": "user"}], "x")).features[0].origin == "impressions"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"keys": {**SCHEMA["keys"], "user": "userid"}}, "log.csv: missing column 'userid'; did you mean 'user_id'?"),
        ({"labels": [{"name": "is_clikc"}]}, "log.csv: missing column 'is_clikc'; did you mean 'is_click'?"),
        ({"weight": "w"}, "log.csv: missing column 'w'"),
        (
            {"features": [{**FEATURES["category"], "source": "categroy"}]},
            "feature 'category': no column 'categroy' in items or impressions; did you mean 'category'?",
        ),
        ({"features": [{**FEATURES["tab"], "origin": "users"}]}, "feature 'tab': no column 'tab' in users"),
        (
            {"histories": [{"name": "clicks", "snapshot": "past_item"}]},
            "history 'clicks': the users table has no column 'past_item'; did you mean 'past_items'?",
        ),
        ({"histories": [{"name": "clicks", "event": "is_like"}]}, "log.csv: missing column 'is_like'"),
        (
            {
                "keys": {"user": "user_id", "item": "item_id"},
                "split": {"by": "quantile"},
                "features": [FEATURES["hour"]],
            },
            "feature 'hour': transform 'hour' needs keys.time or a source",
        ),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_nearest_name(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        resolve(toy_tables(40, **schema))
    assert message in str(error.value)


def test_a_log_without_rows_is_named() -> None:
    frame, users, items = toy_frames(40)
    with pytest.raises(UnimixerError, match="toy: the log has no rows"):
        resolve(tables_of(toy_schema(), frame.head(0), users, items))


# ---- shared tables ------------------------------------------------------------


def test_features_that_name_one_table_share_its_rows() -> None:
    transform = fitted(toy_tables())
    assert "category" in transform.vocabularies
    assert "interests" not in transform.vocabularies
    assert known(transform, "category") == {f"c{n}" for n in range(5)}


@pytest.mark.parametrize("first", [True, False])
def test_the_policy_of_a_shared_table_is_that_of_its_namesake_or_else_the_one_that_is_given(first: bool) -> None:
    hashed = {"policy": "hash", "num_buckets": 9}
    rows = [(*row, n % 2, "v", "w") for n, row in enumerate(ONE_EACH)]
    namesake, other = {**CONTEXT, "vocabulary": hashed}, {**CONTEXT, "name": "y", "table": "x"}
    features = [namesake, other] if first else [other, namesake]
    assert fitted(small(rows, features, "x", "y")).spec.tables == {"x": 11}
    features = [{**feature, "table": "shared"} for feature in features]
    assert fitted(small(rows, features, "x", "y")).spec.tables == {"shared": 11}


# ---- histories ------------------------------------------------------------

CLICKED = {"name": "seen", "kind": "sequence", "domain": "behaviour", "history": "past", "source": "item_id"}


def windows(tables: RawTables) -> list[list[str]]:
    """Items that every impression sees, as texts."""
    transform = fitted(tables)
    (chunk,) = tables.impressions()
    batch, keys = transform.raw_batch(chunk, first_row=0), transform.vocabularies["seen"].texts.to_list()
    texts = ["missing", "unknown", *keys]
    offsets, values = batch.sequence_offsets["past"].tolist(), batch.sequence_values["past"][:, 0].tolist()
    return [[texts[v] for v in values[a:b]] for a, b in pairwise(offsets)]


PAST = {"histories": [{"name": "past", "max_length": 2}]}
ROWS = [("u1", "a", 0, 1), ("u1", "b", 1, 0), ("u2", "a", 1, 1), ("u1", "a", 6, 1), ("u1", "b", 8, 0)]


def test_every_impression_sees_what_its_user_saw_before() -> None:
    assert windows(small(ROWS, [CLICKED], **PAST)) == [[], ["a"], [], ["a", "b"], ["b", "a"]]


def test_a_history_of_an_event_holds_the_impressions_where_it_happened() -> None:
    past = {"histories": [{"name": "past", "event": "is_click"}]}
    assert windows(small(ROWS, [CLICKED], **past)) == [[], ["a"], [], ["a"], ["a", "a"]]


GRADED = [5, 1, 4, None, 3]
LIKED = {"name": "liked", "source": "rating", "threshold": 4}


def graded(event: str, ratings: Sequence[Any] = GRADED, **schema: Any) -> RawTables:
    """The same impressions with a rating, of which an event of the history is made."""
    tables = small(ROWS, [CLICKED], histories=[{"name": "past", "event": event}], **schema)
    (chunk,) = tables.impressions()
    return tables_of(tables.schema, chunk.frame.with_columns(rating=pl.Series(ratings, strict=False)))


def test_a_graded_column_is_no_event_and_the_sentence_names_its_label() -> None:
    with pytest.raises(UnimixerError) as error:
        fitted(graded("rating", labels=[{"name": "is_click"}, LIKED]))
    assert str(error.value) == (
        "log.csv, row 1: rating=5 is not 0 or 1; let event of history 'past' name the label 'liked'"
    )
    with pytest.raises(
        UnimixerError, match=r"row 3: rating=4 is not 0 or 1; let event of .* name a label with a thresh"
    ):
        fitted(graded("rating", [1, 0, 4, 1, 0]))


def test_a_label_with_a_threshold_is_an_event_where_it_holds() -> None:
    liked = [LIKED | {"threshold": 3}]
    ratings = [5, 1, 4, 3, 2]
    assert windows(graded("liked", ratings, labels=liked)) == [[], ["a"], [], ["a"], ["a", "a"]]
    texts = [str(rating) for rating in ratings]
    assert windows(graded("liked", texts, labels=liked)) == [[], ["a"], [], ["a"], ["a", "a"]]


@pytest.mark.parametrize("values", [[True, False, True, None, True], ["True", "0", "1.0", "", "TRUE"]])
def test_an_event_may_be_true_or_false_or_empty(values: list[Any]) -> None:
    assert windows(graded("rating", values)) == [[], ["a"], [], ["a"], ["a"]]


def test_an_event_that_is_a_label_and_another_column_is_refused() -> None:
    with pytest.raises(
        UnimixerError, match="event 'is_click' is a label read from 'rating' and a column of the log too"
    ):
        fitted(graded("is_click", labels=[LIKED | {"name": "is_click"}]))


@pytest.mark.parametrize("separator", [None, ";"])
def test_a_snapshot_comes_before_everything_the_log_knows(separator: str | None) -> None:
    past = {"histories": [{"name": "past", "snapshot": "old", "separator": separator, "max_length": 2}]}
    old: list[Any] = [["y", "x", "b"], [], None]
    if separator is not None:
        old = [separator.join(items) if items else items for items in (["y", "x", "b"], "", None)]
    users = pl.DataFrame({"user_id": ["u1", "u3", "u2"], "old": old})
    assert windows(small(ROWS, [CLICKED], users=users, **past)) == [["x", "b"], ["b", "a"], [], ["a", "b"], ["b", "a"]]


def test_impressions_without_a_user_are_nobodys_past() -> None:
    rows = [(user or "", item or "", number, click) for user, item, number, click in ROWS]
    rows[0] = ("", "a", 0, 1)
    rows.insert(1, ("", "b", 0, 0))
    assert windows(small(rows, [CLICKED], **PAST))[:3] == [[], [], []]


def test_impressions_without_an_item_are_not_remembered() -> None:
    rows = [("u1", "", 0, 1), *ROWS[1:]]
    assert windows(small(rows, [CLICKED], **PAST)) == [[], [], [], ["b"], ["b", "a"]]


def test_without_a_time_column_the_order_of_the_whole_log_is_the_time() -> None:
    schema = toy_schema(
        keys={"user": "user_id", "item": "item_id"}, split={"by": "quantile"}, features=[CLICKED], **PAST
    )
    frame = log(*[("u", f"i{n}", 0, n % 2) for n in range(20)])
    whole, pieces = fitted(tables_of(schema, frame)), fitted(tables_of(schema, frame, chunk_rows=6))
    assert whole.histories["past"].times.values.tolist() == list(range(20))
    assert pieces.histories["past"].times.values.tolist() == list(range(20))
    # rows of several files are numbered from 1 in each: that number is no time
    files = [Chunk(chunk.frame, chunk.source) for chunk in tables_of(schema, frame, chunk_rows=10).impressions()]
    assert fitted(RawTables(schema, lambda: iter(files))).histories["past"].times.values.tolist() == list(range(20))


def test_without_a_time_column_new_rows_come_after_the_whole_log() -> None:
    schema = toy_schema(
        keys={"user": "user_id", "item": "item_id"}, split={"by": "quantile"}, features=[CLICKED], **PAST
    )
    tables = tables_of(schema, log(*[("u", f"i{n % 9}", 0, n % 2) for n in range(20)]))
    transform = fitted(tables)
    newest = transform.vocabularies["seen"].lookup(pl.Series(["i0", "i1"])).tolist()  # rows 18 and 19
    batch = transform.raw_batch(next(tables.impressions()))
    assert batch.sequence_values["past"][:, 0].tolist() == newest * 20


# ---- empty parts ------------------------------------------------------------


@pytest.mark.parametrize(
    ("dates", "part"), [(("2022-05-01", "2022-05-02"), "train"), (("2022-05-08", "2022-06-01"), "test")]
)
def test_an_empty_part_is_named_before_anything_is_learned(dates: tuple[str, str], part: str) -> None:
    split = {"by": "date", "validation": dates[0], "test": dates[1]}
    with pytest.raises(UnimixerError, match=f"toy: the {part} part is empty: the log goes from 2022-05-01 00:02"):
        fitted(toy_tables(split=split))
