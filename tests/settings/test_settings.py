"""Settings: one sentence for every mistake in a YAML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from toy import SCHEMA, toy_schema

from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.settings import annotated_yaml, dump_yaml, load_yaml, origins_of, override, parse, read_yaml
from unimixer.training.config import Recipe

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


def test_a_mistake_names_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: toy\nlabels: [{name: is_click}]\nfeatures:\n  - {name: a, kind: categorical, domain: user}\n"
        "  - name: b\n    kind: numeric\n    domain: context\n    vocabulary:\n      min_cuont: 2\n"
    )
    sentence = f"{path}, line 9: unknown key 'features.1.vocabulary.min_cuont'; did you mean 'min_count'?"
    with pytest.raises(UnimixerError, match=re.escape(sentence)):
        parse(Schema, load_yaml(path), where="s.yaml")
    path.write_text("name: toy\nlabels:\n  - name: 3\nfeatures: []\n")
    with pytest.raises(
        UnimixerError, match=r"line 3: labels\.0\.name=3: input should be a valid string; put a text in"
    ):
        parse(Schema, load_yaml(path), where="s.yaml")


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\ndataset: s\ntraining: {epochs: 2}\n")
    for change, message in [
        ("training.seeed=1", "override training.seeed=1: unknown key 'training.seeed'; did you mean 'seed'?"),
        ("trainng.seed=1", "override trainng.seed=1: unknown key 'trainng'; did you mean 'training'?"),
        ("training.epochs=many", "override training.epochs=many: training.epochs='many': input should be a valid int"),
        (
            "learning_rate=0.1",
            "override learning_rate=0.1: unknown key 'learning_rate'; did you mean 'optimizer.dense_",
        ),
    ]:
        with pytest.raises(UnimixerError, match=re.escape(message)):
            parse(Recipe, override(load_yaml(path), [change]), where="recipe.yaml")
    path.write_text("name: a\ndataset: s\ntraining: {epochs: 0}\n")
    with pytest.raises(UnimixerError, match=re.escape(f"{path}, line 3: training.epochs=0: input should be greater")):
        parse(Recipe, override(load_yaml(path), ["training.seed=1"]), where="recipe.yaml")


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf"])
def test_a_number_that_is_not_finite_is_refused(text: str) -> None:
    values = override({"name": "a", "dataset": "s"}, [f"optimizer.dense_lr={text}"])
    with pytest.raises(UnimixerError, match=r"optimizer\.dense_lr=-?(nan|inf): input should be a finite number"):
        parse(Recipe, values, where="recipe")


@pytest.mark.parametrize("key", ["training.batch_size", "training.max_steps", "training.seed", "model.dense_params"])
def test_a_number_of_more_than_64_bits_is_refused(key: str) -> None:
    values = override({"name": "a", "dataset": "s"}, [f"{key}=1{'0' * 30}"])
    with pytest.raises(UnimixerError, match=rf"override {key}=1000\d+: {key}=1000\d+: input should be "):
        parse(Recipe, values, where="recipe")


def test_every_key_is_shown_with_its_origin_and_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: 'no'\ndataset: a b # c\ntasks: {on: 1.0, 'a: b': 2}\noptimizer:\n  dense_lr: 1e-3\n")
    values = override(load_yaml(path), ["training.seed=7"])
    recipe = parse(Recipe, values, where="recipe")
    text = annotated_yaml(recipe, values)
    assert f"name: 'no'  # {path}, line 1\n" in text
    assert f"  dense_lr: 0.001  # {path}, line 5\n" in text
    assert "  mixing_lr: null  # default\n" in text
    assert "  epochs: 1  # default\n" in text
    assert "  seed: 7  # override training.seed=7\n" in text
    shown = read_yaml(text, "shown")
    assert parse(Recipe, shown, where="shown") == recipe
    assert shown == recipe.model_dump(mode="json")  # every key, those that are none too
    origins = origins_of(recipe, values)
    assert origins["training.seed"] == "override training.seed=7"
    assert origins["tasks"] == f"{path}, line 3"
    assert origins["model.width"] == "default"


@pytest.mark.parametrize(
    "text",
    ["no", "1e-3", "12:30", "007", "0x1f", "2024-01-30", "a: b", "# x", "~", "null", "1_000", ".5", "", " a ", "é"],
)
def test_a_text_that_looks_like_something_else_is_dumped_as_a_text(text: str) -> None:
    settings = toy_schema(name=text)
    assert read_yaml(dump_yaml(settings), "dumped")["name"] == text
    assert yaml.safe_load(dump_yaml(settings))["name"] == text
