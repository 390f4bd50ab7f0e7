"""YAML in one reading: every key once, plain scalars as YAML 1.2 has them, mistakes with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unimixer.errors import UnimixerError
from unimixer.settings import load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f, line 3: key 'a' is given twice, first in line 1; keep one of them"),
        ("a:\n  b: 1\n  c: {d: 1}\n  b: 2", "f, line 4: key 'b' is given twice in 'a', first in line 2; keep one"),
        ("a: {b: 1, b: 1}", "f, line 1: key 'b' is given twice in 'a', first in line 1"),
        ("a:\n- b: 1\n  'b': 2", "f, line 3: key 'b' is given twice in 'a.0', first in line 2"),
        ("a: [[{b: 1, c: 2, b: 3}]]", "f, line 1: key 'b' is given twice in 'a.0.0'"),
        ("x: &x {c: 1}\na:\n  <<: *x\n  <<: *x", "f, line 4: key '<<' is given twice in 'a', first in line 3"),
        ("x: &x {c: 1, c: 2}\na:\n  <<: *x", "f, line 1: key 'c' is given twice in 'x'"),
        ("a: 1\n---\nb: 2", "f, line 2: a second document begins here (---); keep one in a file"),
        ("a:\n\tb: 1", "f, line 2: not valid YAML: while scanning for the next token found character '\\t' that cannot "
         "start any token; indent with spaces"),
        ("a: 'b", "f, line 1: not valid YAML: while scanning a quoted scalar found unexpected end of stream"),
        ("a: 1\nb: *x", "f, line 2: not valid YAML: found undefined alias 'x'"),
        ("a: &a [*a]", "f, line 1: an alias refers to a value that contains it"),
        ("a: &a\n  <<: *a", "an alias refers to a value that contains it"),
        ("a: !!python/name:os.system x", "f, line 1: the tag !!python/name:os.system has no meaning here"),
        ("a: !!set {b}", "f, line 1: the tag !!set has no meaning here"),
        ("a: !!int x", "f, line 1: 'x' is no int"),
        ("? [a]\n: 1", "f, line 1: a key is a text, not a list or mapping"),
        ("a: 1\nb: \x00", "f, line 2: not valid YAML: character"),
        ("a: " + "[" * 3000, "not valid YAML: "),
        ("a: 1" + "0" * 5000, "is no int"),
        ("", "f: expected a mapping of keys to values, found nothing"),
        ("- 1", "f: expected a mapping of keys to values, found list"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        read_yaml(text, "f")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_aliases_cannot_make_a_small_file_large() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UnimixerError, match="aliases make more than 100,000 values of this file"):
        read_yaml("\n".join(lines), "f")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("NO", "NO"), ("off", "off"), ("on", "on"), ("yes", "yes"), ("y", "y"),
        ("true", True), ("False", False), ("'true'", "true"),
        ("1e-3", 0.001), ("1E3", 1000.0), ("-2.5e+4", -25000.0), (".5", 0.5), ("5.", 5.0), ("'1e-3'", "1e-3"),
        ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("010", "010"), ("000", "000"), ("0o17", 15), ("0x1F", 31),
        ("1_000", 1000), ("2024_01", "2024_01"), ("2024-01-30", "2024-01-30"),
        ("~", None), ("", None), ("null", None), ("!!str 5", "5"), ("-0", 0), ("1.2.3", "1.2.3"), (".", "."),
    ],
)  # fmt: skip
def test_a_plain_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    found = read_yaml(f"a: {text}", "f")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_texts_as_they_are_written() -> None:
    assert read_yaml("on: 1\n1: 2\nno: 3\nnull: 4\n1e3: 5", "f") == {"on": 1, "1": 2, "no": 3, "null": 4, "1e3": 5}


def test_a_merged_mapping_gives_what_its_own_keys_do_not() -> None:
    found = read_yaml("x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  a: 9\n  <<: [*x, *y]", "f")
    assert found["z"] == {"a": 9, "b": 2, "c": 4}
    assert found.origin(("z", "a")) == "f, line 4"
    assert found.origin(("z", "c")) == "f, line 2"


def test_every_value_knows_its_line() -> None:
    found = read_yaml("a:\n  b:\n  - 1\n  - {c: 2}\n", "f")
    places: dict[Any, str] = {
        ("a",): "1",
        ("a", "b"): "2",
        ("a", "b", 0): "3",
        ("a", "b", 1, "c"): "4",
        ("a", "x"): "1",
    }
    assert {place: found.origin(place) for place in places} == {p: f"f, line {line}" for p, line in places.items()}
    assert found.origin(("z",)) is None


def test_a_file_that_is_not_utf_8_says_which_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("a: Größe".encode("latin-1"))
    with pytest.raises(UnimixerError, match=r"a\.yaml: not valid YAML: byte 0xf6 at position 5 is not UTF-8; save the"):
        load_yaml(path)
    path.write_bytes("\ufeffa: Größe\r\nb: 1\r\n".encode())
    assert load_yaml(path) == {"a": "Größe", "b": 1}
