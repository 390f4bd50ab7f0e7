"""The schema refuses what cannot mean anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import SCHEMA, toy_schema

from unimixer.data.file_settings import Files
from unimixer.data.schema import load_schema
from unimixer.data.split_settings import DateSplit, QuantileSplit
from unimixer.errors import UnimixerError
from unimixer.settings import dump_yaml, override, parse


def feature(**values: Any) -> dict[str, Any]:
    return {"features": [{"name": "x", "kind": "categorical", "domain": "user", **values}]}


def test_a_schema_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(dump_yaml(toy_schema()), encoding="utf-8")
    assert load_schema(path) == toy_schema()
    path.write_text(path.read_text().replace("labels:", "lables:"))
    with pytest.raises(UnimixerError, match=r"toy\.yaml, line 11: unknown key 'lables'; did you mean 'labels'\?"):
        load_schema(path)


def test_the_split_is_by_quantiles_of_time_unless_another_is_asked_for() -> None:
    assert isinstance(toy_schema().split, DateSplit)
    rest = {key: value for key, value in SCHEMA.items() if key != "split"}
    assert type(toy_schema().model_validate(rest).split) is QuantileSplit


def test_a_feature_reads_the_column_and_the_table_of_its_name_unless_told_otherwise() -> None:
    plain, named = toy_schema(
        features=[
            {"name": "a", "kind": "categorical", "domain": "user"},
            {"name": "b", "kind": "categorical", "domain": "user", "source": "c", "table": "t"},
        ]
    ).features
    assert (plain.column, plain.table_name) == ("a", "a")
    assert (named.column, named.table_name) == ("c", "t")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (feature(transform="log"), "transform 'log' does not fit kind 'categorical'; allowed: none, hour, weekday"),
    (feature(kind="numeric", transform="hour"), "does not fit kind 'numeric'; allowed: none, log, standardise"),
    (feature(kind="embedding"), "width goes with kind 'embedding', and only with it"),
    (feature(width=3), "width goes with kind 'embedding', and only with it"),
    (feature(history="clicks"), "history goes with kind 'sequence' and domain 'behaviour'"),
    (feature(kind="sequence", domain="behaviour"), "domain 'behaviour' needs the name of a history"),
    (feature(keep="first"), "feature 'x': keep goes with a list column (kind 'sequence' without a history)"),
    (
        feature(kind="sequence", domain="behaviour", history="clicks", keep="first"),
        "without a history); a history keeps its last events",
    ),
    (
        feature(kind="sequence", domain="behaviour", history="clicsk"),
        "unknown history 'clicsk'; did you mean 'clicks'?",
    ),
    (feature(kind="sequence", name="clicks"), "feature 'clicks' has the name of a history; rename one of them"),
    (feature(source="is_click"), "feature 'x' reads 'is_click', which is a label: an outcome is never a feature"),
    (feature(domain="context", source="watch_s"), "reads 'watch_s', which is a label"),
    (feature(vocabulary={"policy": "hash"}), "num_buckets goes with policy 'hash', and only with it"),
    (feature(vocabulary={"policy": "hash", "num_buckets": 2**31}), "less than or equal to 2147483645"),
    (feature(vocabulary={"num_buckets": 8}), "num_buckets goes with policy 'hash', and only with it"),
    ({"features": []}, "a schema needs at least one label and one feature"),
    ({"labels": []}, "a schema needs at least one label and one feature"),
    ({"features": SCHEMA["features"][:1] * 2}, "feature 'user_id' is declared twice"),
    ({"labels": [{"name": "a"}, {"name": "a", "source": "b"}]}, "label 'a' is declared twice"),
    (
        {"labels": [{"name": "p", "soft": True, "threshold": 0.5}]},
        "label 'p': a soft label is a probability and has no",
    ),
    (
        {"labels": [{"name": "is_click", "soft": True}]},
        "history 'clicks': event 'is_click' is a soft label, and a probability is not an event",
    ),
    ({"keys": {"user": "user_id"}}, "histories need keys.user and keys.item"),
    (
        {
            "keys": {"user": "user_id", "item": "item_id"},
            "histories": [],
            "split": {"by": "random"},
            "features": [{"name": "shown", "kind": "numeric", "domain": "context"}],
            "counts": [{"name": "shown", "by": ["item_id"], "until": "day"}],
        },
        "count 'shown': until: day needs keys.time, because rows without it have no day",
    ),
    ({"split": {"by": "random", "validation": 1.5}}, "split.validation=1.5: input should be less than 1"),
    *(
        ({"keys": {**SCHEMA["keys"], "timezone": name}}, f"timezone={name!r} is not a time zone, for example Asia/S")
        for name in ("Mars/Base", "CET+1", "America", "", "../UTC", "localtime")
    ),
    (feature(kind="sequence", separator=""), "separator='': string should have at least 1 character"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[m[:50] for _, m in MISTAKES])
def test_a_contradiction_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        toy_schema(**change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_outcome_column_of_the_users_table_may_be_a_feature() -> None:
    toy_schema(features=[{"name": "x", "kind": "numeric", "domain": "user", "source": "watch_s", "origin": "users"}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"separator": ""}, "separator='' cannot stand between two fields"),
        ({"separator": '"'}, "cannot stand between two fields"),
        ({"quote": "ab"}, "quote='ab' is not one character"),
        ({"header": ["a", "a"]}, "header must name every column once"),
        ({"encoding": "utf-16"}, "encoding='utf-16' is not read; convert the files to UTF-8"),
        ({"encoding": "latin-x"}, "encoding='latin-x' is not known"),
    ],
)
def test_how_files_are_read_must_be_possible(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        parse(Files, given, where="files")


@pytest.mark.parametrize(
    ("text", "separator"), [("separator=|", "|"), ("separator=::", "::"), ("separator=\\t", "\t"), ("separator=;", ";")]
)
def test_a_separator_of_the_command_line_stands_for_itself(text: str, separator: str) -> None:
    assert parse(Files, override({}, [text]), where="files").separator == separator


def test_the_columns_that_a_log_needs_are_those_of_the_keys_labels_and_events() -> None:
    base = toy_schema()
    schema = base.model_copy(update={"weight": "w", "labels": (base.labels[0].model_copy(update={"source": "grade"}),)})
    needed = schema.needed_columns(outcomes=True)
    assert {"user_id", "item_id", "time_ms", "w", "grade"} <= set(needed)
    assert base.labels[0].name not in needed
    assert set(schema.needed_columns(outcomes=False)) == {"user_id", "item_id", "time_ms"}


def test_no_quotes_survive_the_way_through_yaml(tmp_path: Path) -> None:
    schema = toy_schema().model_copy(update={"files": Files(separator="\t", header=("a", "b"), quote="")})
    (tmp_path / "toy.yaml").write_text(dump_yaml(schema), encoding="utf-8")
    assert load_schema(tmp_path / "toy.yaml").files == schema.files


def test_a_soft_label_says_so_in_its_file_and_a_hard_one_has_the_text_of_older_versions(tmp_path: Path) -> None:
    schema = toy_schema(
        labels=[{"name": "is_click", "probability": "p"}, {"name": "truth", "source": "p", "soft": True}]
    )
    (tmp_path / "toy.yaml").write_text(dump_yaml(schema), encoding="utf-8")
    assert load_schema(tmp_path / "toy.yaml") == schema
    assert schema.model_dump(mode="json", exclude_none=True)["labels"] == [
        {"name": "is_click", "probability": "p"},
        {"name": "truth", "source": "p", "soft": True},
    ]


def test_the_end_of_lists_is_in_a_file_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    lists = [{"name": name, "kind": "sequence", "domain": "user", "keep": name} for name in ("last", "first")]
    schema = toy_schema(features=lists)
    (tmp_path / "toy.yaml").write_text(dump_yaml(schema), encoding="utf-8")
    assert load_schema(tmp_path / "toy.yaml") == schema
    last, first = schema.model_dump(mode="json", exclude_none=True)["features"]
    assert "keep" not in last
    assert first["keep"] == "first"


def test_the_truth_of_a_label_is_the_soft_label_that_reads_the_column_of_its_probability() -> None:
    schema = toy_schema(
        labels=[
            {"name": "is_click", "probability": "p"},
            {"name": "long_view", "source": "watch_s", "threshold": 10},
            {"name": "true_click", "source": "p", "soft": True},
            {"name": "teacher", "soft": True},
            {"name": "known", "soft": True, "probability": "known"},
        ]
    )
    assert schema.truths == {"is_click": "true_click", "true_click": "true_click", "known": "known"}
    assert schema.soft_labels == ("true_click", "teacher", "known")
