"""Overrides: what ``key=value`` means, and what it cannot mean."""

from __future__ import annotations

import re

import pytest

from unimixer.errors import UnimixerError
from unimixer.settings import Change, override, parse_scalar, read_changes


def test_overrides_change_a_copy_and_make_what_is_missing() -> None:
    values = {"training": {"lr": 1.0, "seed": 0}, "model": None, "tasks": ["a"]}
    changed = override(values, ["training.lr=1e-3", "model.width=8", "new.key=[1, 2]", "tasks=null"])
    assert changed == {
        "training": {"lr": 0.001, "seed": 0},
        "model": {"width": 8},
        "new": {"key": [1, 2]},
        "tasks": None,
    }
    assert values["training"] == {"lr": 1.0, "seed": 0}


def test_an_override_without_a_key_or_below_a_value_is_refused() -> None:
    for text in ("seed", "=3"):
        with pytest.raises(UnimixerError, match="expected key=value, for example"):
            override({}, [text])
    with pytest.raises(UnimixerError, match=r"override a\.b=1: 'a' has no keys below it$"):
        override({"a": 3}, ["a.b=1"])
    with pytest.raises(UnimixerError, match=r"'a\.b' has no keys below it; write the whole list: a\.b=\[\.\.\.\]$"):
        override({"a": {"b": [1, 2]}}, ["a.b.0=1"])


@pytest.mark.parametrize("text", ["a..b=1", ".a=1", "a.=1", "a. .b=1"])
def test_a_key_with_an_empty_part_is_refused(text: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(f"override {text!r}: the key {text[:-2]!r} has an empty part")):
        override({}, [text])


def test_no_value_is_refused_with_the_two_things_it_could_mean() -> None:
    with pytest.raises(UnimixerError, match=r"""no value; write a=null for none, or a='""' for an empty text$"""):
        override({}, ["a="])
    assert override({}, ["a=null", "b=''", 'c=""']) == {"a": None, "b": "", "c": ""}


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UnimixerError, match=r"^override a\.b=2: override a\.b=1 sets a\.b too; give one of them$"):
        override({}, ["a.b=1", "c=1", "a.b=2"])
    with pytest.raises(
        UnimixerError, match=r"^override a=\{b: 2\}: override a\.b=1 sets a in part too; give one of them$"
    ):
        override({}, ["a.b=1", "a={b: 2}"])
    with pytest.raises(UnimixerError, match=r"^--data x: override dataset=s sets dataset too"):
        override({}, ["dataset=s", Change("dataset", "x", "--data x")])
    with pytest.raises(UnimixerError, match=r"^option rows=2: option rows=1 sets rows too"):
        read_changes(["rows=1", "rows=2"], "option", "rows=1000")
    assert override({}, ["a.b=1", "a.bc=2"]) == {"a": {"b": 1, "bc": 2}}


def test_a_change_that_is_read_already_is_not_read_as_yaml() -> None:
    assert override({}, [Change("dataset", "2024", "--data 2024")]) == {"dataset": "2024"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("-2.5E+4", -25000.0),
        ("true", True),
        ("null", None),
        ("a: b: c", "a: b: c"),
        ("a: b", "a: b"),
        ("|", "|"),
        ("-", "-"),
        ("#", "#"),
        ("a #b", "a #b"),
        ("*", "*"),
        ("&", "&"),
        ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M"),
        ("a=b", "a=b"),
        ("12:30", "12:30"),
        ("no", "no"),
        ("010", "010"),
        (" ", " "),
        ("\t", "\t"),
        ("[64, 32]", [64, 32]),
        ("{a: 1e3}", {"a": 1000.0}),
        ("'3'", "3"),
        ("x", "x"),
    ],
)
def test_a_scalar_is_read_as_yaml_and_an_exponent_is_a_number(text: str, value: object) -> None:
    assert parse_scalar(text) == value


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1", "'a", '"a'])
def test_brackets_and_quotes_that_do_not_close_are_refused(text: str) -> None:
    with pytest.raises(UnimixerError, match=r"^override key=.*, line 1: not valid YAML: "):
        override({}, [f"key={text}"])
