"""Inferred schemas: they load, they open the same file, and every guess has its evidence."""

from __future__ import annotations

import os
import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml

from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.infer import infer_schema
from unimixer.data.schema import Feature, Schema, load_schema
from unimixer.errors import UnimixerError


def shop(rows: int = 600) -> pl.DataFrame:
    """A log with every kind of column."""
    draw = random.Random(0)
    users = [draw.randrange(80) for _ in range(rows)]
    goods = [draw.randrange(120) for _ in range(rows)]
    return pl.DataFrame(
        {
            "row_id": [f"r{i}" for i in range(rows)],
            "user_id": users,
            "goods_id": [f"g{g}" for g in goods],
            "event_time": [1_700_000_000 + 37 * i for i in range(rows)],
            "gender": [None if u % 7 == 0 else "fm"[u % 2] for u in users],
            "brand": [f"b{g % 9}" for g in goods],
            "price": [round(3.0 + g * 1.37, 2) for g in goods],
            "query_count": [draw.randrange(90) for _ in range(rows)],
            "city": [draw.choice(["NULL", "Lyon", "Rome"]) for _ in range(rows)],
            "tags": ["|".join(sorted(draw.sample(["new", "sale", "top", "red"], 1 + g % 3))) for g in goods],
            "channel": ["app"] * rows,
            "click": [int(draw.random() < 0.3) for _ in range(rows)],
            "is_bought": [int(draw.random() < 0.1) for _ in range(rows)],
            "watch_seconds": [draw.randrange(500) for _ in range(rows)],
            "odd: name": [draw.randrange(3) for _ in range(rows)],
        }
    )


@pytest.fixture(params=["csv", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"shop.{request.param}"
    if request.param == "csv":
        shop().write_csv(path)
    else:
        extra = {"vector": [[0.5, float(i)] for i in range(600)], "past": [[1, i] for i in range(600)]}
        shop().with_columns(pl.from_epoch("event_time"), **{k: pl.Series(v) for k, v in extra.items()}).write_parquet(
            path
        )
    return path


def inferred(file: Path) -> tuple[str, Schema, dict[str, Feature]]:
    text = infer_schema(file)
    path = file.with_suffix(".yaml")
    path.write_text(text, encoding="utf-8")
    schema = load_schema(path)
    return text, schema, {f.name: f for f in schema.features}


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if f"name: {name}," in line or line.startswith(f"  # {name}:"))


def test_the_schema_opens_the_file_that_it_was_inferred_from(file: Path) -> None:
    inferred(file)
    tables = open_raw(str(file.with_suffix(".yaml")), file)
    columns = next(tables.impressions()).frame.columns
    assert {f.column for f in tables.schema.features} <= set(columns)
    assert tables.schema.name == "shop"


def test_keys_label_and_time_are_guessed(file: Path) -> None:
    text, schema, _ = inferred(file)
    assert (schema.keys.user, schema.keys.item, schema.keys.time) == ("user_id", "goods_id", "event_time")
    assert schema.keys.time_format == ("s" if file.suffix == ".csv" else "ms")
    assert schema.label_names == ("click",)
    assert "# - {name: is_bought}" in text
    assert {h.name: h.event for h in schema.histories} == {"seen": None, "positive": "click"}


def test_kinds_and_domains_follow_the_values(file: Path) -> None:
    _, _, features = inferred(file)
    kinds = {name: (f.kind, f.domain) for name, f in features.items()}
    assert kinds["gender"] == ("categorical", "user")
    assert kinds["brand"] == ("categorical", "item")
    assert kinds["price"] == ("numeric", "item")
    assert kinds["query_count"] == ("numeric", "context")
    assert kinds["tags"][0] == "sequence"
    assert features["tags"].separator == "|"
    assert features["city"].missing == ("", "NULL")
    assert kinds["odd: name"] == ("categorical", "context")
    assert features["hour_of_event_time"].transform == "hour"
    assert features["seen_goods_id"].table_name == "goods_id"


def test_lists_become_sequences_and_equally_long_fractions_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    shop(50).with_columns(
        vector=pl.Series([[0.5, float(i)] for i in range(50)]), past=pl.Series([[1, 2][: i % 3] for i in range(50)])
    ).write_parquet(path)
    _, _, features = inferred(path)
    assert (features["vector"].kind, features["vector"].width) == ("embedding", 2)
    assert features["past"].kind == "sequence"


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("watch_seconds", "CHECK: looks like an outcome of the impression"),
        ("is_bought", "a label, or another candidate"),
        ("row_id", "a different value in every row"),
        ("channel", "one value only"),
    ],
)
def test_what_should_be_no_feature_is_commented_out_with_the_reason(file: Path, column: str, reason: str) -> None:
    text, _, features = inferred(file)
    assert column not in features
    assert reason in line_of(text, column)


def test_every_guess_has_its_evidence(file: Path) -> None:
    text, _, _ = inferred(file)
    assert "9 values, 0.0% missing, e.g. b" in line_of(text, "brand")
    assert "% missing" in line_of(text, "gender")
    assert "0.0% missing" not in line_of(text, "gender")
    for name in ("price", "query_count", "user_id"):
        assert "values, 0.0% missing, e.g." in line_of(text, name)


def test_commented_features_are_right_once_the_mark_is_removed(file: Path) -> None:
    text, _, features = inferred(file)
    restored = text.replace("  # - {name: watch_seconds", "  - {name: watch_seconds")
    schema = Schema.model_validate(yaml.safe_load(restored))
    assert len(schema.features) == len(features) + 1


def test_a_rating_becomes_a_label_with_a_threshold_near_the_median(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    pl.DataFrame({"user": [1, 2] * 50, "movie": list(range(50)) * 2, "rating": [1, 3, 4, 4, 5] * 20}).write_csv(path)
    _, schema, features = inferred(path)
    assert (schema.labels[0].name, schema.labels[0].threshold) == ("rating", 4)
    assert "rating" not in features
    assert schema.keys.time is None


def test_a_file_without_a_label_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    pl.DataFrame({"user": [1, 2, 3], "price": [0.5, 1.5, 2.5]}).write_csv(path)
    with pytest.raises(UnimixerError, match=r"log.csv: no column can be a label"):
        infer_schema(path)


def test_a_log_without_a_feature_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    pl.DataFrame({"channel": ["app"] * 4, "click": [0, 1, 0, 1], "watched": [3, 5, 9, 9]}).write_csv(path)
    with pytest.raises(
        UnimixerError, match=r"log.csv: no column can be a feature \(.*channel.* one value only; .*click"
    ):
        infer_schema(path)


def test_a_label_of_two_other_values_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    pl.DataFrame({"user": [1, 2, 3], "sex": ["m", "f", "m"], "clicked?": ["yes", "no", "no"]}).write_csv(path)
    with pytest.raises(UnimixerError, match=r"'clicked\?' holds 'no' and 'yes': write its outcome as 1"):
        infer_schema(path)


def test_numbers_with_a_decimal_comma_are_no_lists(tmp_path: Path) -> None:
    prices, tags = ["27,30", "8,19", "0,5", "-30,27"], ["1,2", "2,1,3", "1,3", "3,2,1"]
    log = pl.DataFrame({"click": [0, 1] * 50, "price": prices * 25, "tags": tags * 25})
    log.write_csv(tmp_path / "log.csv", separator=";")
    text, _, features = inferred(tmp_path / "log.csv")
    assert "price" not in features
    assert "CHECK: looks like numbers with a decimal comma; write a point instead, and kind: numeric" in text
    assert features["tags"].separator == ","


@pytest.mark.parametrize(("stray", "read"), [("n/a", True), ("unknown", False), ("12,5", False)])
def test_numbers_but_for_a_few_texts_are_named(stray: str, read: bool, tmp_path: Path) -> None:
    prices = [f"{number + 0.25}" for number in range(99)]
    pl.DataFrame({"click": [0, 1] * 50, "tab": ["a", "b", "b", "a"] * 25, "price": [*prices, stray]}).write_csv(
        tmp_path / "log.csv"
    )
    text, _, features = inferred(tmp_path / "log.csv")
    named = f"CHECK: numbers but for texts such as {stray!r}; where they mean a missing value, list them in 'missing'"
    assert (named not in text) == read == ("price" in features)


def test_a_folder_is_read_by_its_first_file(tmp_path: Path) -> None:
    (tmp_path / "impressions").mkdir()
    shop().write_csv(tmp_path / "impressions" / "part-0.csv")
    assert "first 600 rows of part-0.csv" in infer_schema(tmp_path)


def prepared(file: Path) -> Schema:
    """The inferred schema, with every needed column of the file read by it."""
    tables = open_raw(str(file.with_suffix(".yaml")), file)
    assert sum(chunk.frame.height for chunk in tables.impressions()) == 200
    return tables.schema


def test_texts_of_truth_are_a_label(tmp_path: Path) -> None:
    values = pa.array(["true", "False"] * 100)
    frame = shop(200).drop("click", "is_bought").to_arrow().append_column("click", values)
    parquet.write_table(frame, tmp_path / "log.parquet")
    _, schema, _ = inferred(tmp_path / "log.parquet")
    assert schema.label_names == ("click",)


def test_columns_of_users_and_items_beside_the_log_are_features_of_their_domain(tmp_path: Path) -> None:
    shop(200).write_csv(tmp_path / "log.csv")
    pl.DataFrame({"user_id": range(80), "age": [i % 50 for i in range(80)]}).write_csv(tmp_path / "users.csv")
    goods = {
        "goods_id": [f"g{i}" for i in range(120)],
        "brand": [f"b{i % 9}" for i in range(120)],
        "kind": ["x", "y"] * 60,
    }
    (tmp_path / "items").mkdir()
    pl.DataFrame(goods).write_parquet(tmp_path / "items" / "part-0.parquet")
    text, _, features = inferred(tmp_path)
    assert (features["age"].domain, features["kind"].domain, features["brand"].domain) == ("user", "item", "item")
    assert "is in part-0.parquet too, and read from there" in text
    tables = open_raw(str(tmp_path.with_suffix(".yaml")), tmp_path)
    assert tables.items is not None
    assert tables.items.frame.columns == ["goods_id", "brand", "kind"]


def test_a_log_without_a_header_line_is_refused_or_takes_the_names(tmp_path: Path) -> None:
    frame = shop(200).select("user_id", "goods_id", "event_time", "click")
    frame.write_csv(tmp_path / "log.csv", include_header=False)
    with pytest.raises(UnimixerError, match=r"first line looks like values \(49, g\d+, 1700000000, .\).*header line"):
        infer_schema(tmp_path / "log.csv")
    text = infer_schema(tmp_path / "log.csv", header="user_id,goods_id,event_time,click")
    assert 'files: {header: ["user_id", "goods_id", "event_time", "click"]}' in text
    words = frame.select(pl.col("goods_id"), a=pl.lit("u"), b=pl.lit("v"))
    words.write_csv(tmp_path / "words.csv", include_header=False)
    with pytest.raises(UnimixerError, match=r"first line looks like values"):
        infer_schema(tmp_path / "words.csv")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_that_is_found_stands_in_the_schema(tmp_path: Path, separator: str) -> None:
    shop(200).drop("tags").write_csv(tmp_path / "log.csv", separator=separator)
    _, schema, _ = inferred(tmp_path / "log.csv")
    assert schema.files.separator == separator
    assert schema.keys.user == "user_id"
    prepared(tmp_path / "log.csv")


def test_a_first_part_without_rows_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    shop(200).head(0).write_csv(tmp_path / "log" / "part-0.csv")
    shop(200).write_csv(tmp_path / "log" / "part-1.csv")
    assert "first 200 rows of part-1.csv" in infer_schema(tmp_path / "log")


@pytest.mark.skipif(
    "UNIMIXER_KUAIRAND" not in os.environ, reason="UNIMIXER_KUAIRAND names no folder with KuaiRand-Pure"
)
def test_the_real_log_is_inferred_without_outcomes_among_the_features(tmp_path: Path) -> None:
    folder = Path(os.environ["UNIMIXER_KUAIRAND"])
    log = next(iter(sorted(folder.rglob("log_standard_*.csv"))))
    path = tmp_path / "kuairand.yaml"
    path.write_text(infer_schema(log), encoding="utf-8")
    schema = open_raw(str(path), log).schema
    assert (schema.keys.user, schema.keys.item, schema.keys.time) == ("user_id", "video_id", "time_ms")
    assert schema.label_names == ("is_click",)
    columns = {f.column for f in schema.features}
    assert not {"play_time_ms", "profile_stay_time", "comment_stay_time", "long_view", "is_like"} & columns
    assert next(f for f in schema.features if f.name == "duration_ms").domain == "item"
