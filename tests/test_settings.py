"""Settings: one sentence for every mistake in a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from toy import SCHEMA, toy_schema

from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.settings import dump_yaml, load_yaml, override, parse, parse_scalar

FEATURE = SCHEMA["features"][0]
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"labls": []}, "s.yaml: unknown key 'labls'; did you mean 'labels'?"),
    (
        {"features": [{**FEATURE, "vocabulary": {"min_cuont": 2}}]},
        "s.yaml: unknown key 'features.0.vocabulary.min_cuont'; did you mean 'min_count'?",
    ),
    # pydantic says 'split.date.valdation', and that 'validation' is missing; neither helps
    ({"split": {"by": "date", "valdation": 1}}, "s.yaml: unknown key 'split.valdation'; did you mean 'validation'?"),
    ({"split": {"by": "random", "sed": 1}}, "s.yaml: unknown key 'split.sed'; did you mean 'seed'?"),
    ({"split": {"validation": 0.5}}, "s.yaml: split.by: required, but not given"),
    ({"split": {"by": "day"}}, "s.yaml: split.by='day': input should be one of 'date', 'quantile', 'random'"),
    ({"features": [{"name": "a", "domain": "user"}]}, "s.yaml: features.0.kind: required, but not given"),
    ({"keys": {"user": 3}}, "s.yaml: keys.user=3: input should be a valid string"),
    ({"labels": "click"}, "s.yaml: labels='click': input should be a list"),
    ({"keys": list(range(100))}, "...: input should be a valid mapping or instance of Keys"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[m[:40] for _, m in MISTAKES])
def test_a_mistake_is_one_sentence_with_the_place_and_the_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        parse(Schema, {**SCHEMA, **change}, where="s.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        toy_schema().name = "other"  # type: ignore[misc]


def test_dumped_settings_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(dump_yaml(toy_schema(name="Größe")), encoding="utf-8")
    assert "Größe" in path.read_text(encoding="utf-8")
    assert parse(Schema, load_yaml(path), where="again") == toy_schema(name="Größe")


def test_a_file_that_is_no_yaml_mapping_is_named_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(UnimixerError, match=r"recipe\.yaml: no such file"):
        load_yaml(path)
    with pytest.raises(UnimixerError, match="is a folder, expected a YAML file"):
        load_yaml(tmp_path)
    for content, message in [(b"a: [1", "not valid YAML"), (b"\xff\xfe\xfa", "not valid YAML"), (b"- 1", "found list")]:
        path.write_bytes(content)
        with pytest.raises(UnimixerError, match=message) as error:
            load_yaml(path)
        assert "\n" not in str(error.value)


def test_overrides_change_a_copy_and_make_what_is_missing() -> None:
    values = {"training": {"lr": 1.0, "seed": 0}, "model": None, "tasks": ["a"]}
    changed = override(values, ["training.lr=1e-3", "model.size=8", "new.key=[1, 2]", "tasks=null"])
    assert changed == {
        "training": {"lr": 0.001, "seed": 0},
        "model": {"size": 8},
        "new": {"key": [1, 2]},
        "tasks": None,
    }
    assert values["training"] == {"lr": 1.0, "seed": 0}


def test_an_override_without_a_key_or_below_a_value_is_refused() -> None:
    for text in ("seed", "=3"):
        with pytest.raises(UnimixerError, match="expected key=value, for example"):
            override({}, [text])
    with pytest.raises(UnimixerError, match=r"override 'a\.b=1': 'a' has no keys below it"):
        override({"a": 3}, ["a.b=1"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("-2.5E+4", -25000.0),
        ("true", True),
        ("null", None),
        ("a: b: c", "a: b: c"),
        ("x", "x"),
    ],
)
def test_a_scalar_is_read_as_yaml_and_an_exponent_is_a_number(text: str, value: object) -> None:
    assert parse_scalar(text) == value
