"""The fast reader of JSON takes and refuses what the careful one does, in the same words."""

from __future__ import annotations

import json
from typing import Any

import pydantic_core
import pytest

from unimixer.errors import UnimixerError
from unimixer.serving.errors import HTTPError, read_json

SAME = [
    b'{"a": 1, "b": [1.5, -0.0, 1e22, 5e-324, true, null, "\xc3\xa9\\u00e9\\ud834\\udd1e"]}',
    b'{"a": 9223372036854775807, "b": -9223372036854775807}',
    b'{"a": "' + b"9" * 40 + b'"}',
    b"{}",
    b"",
    b"{",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 01}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b"[" * 500,
    b'{"a": 1} 2',
    b"\xef\xbb\xbf{}",
]


def _careful(body: bytes) -> Any:
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        return f"the body is not JSON: {error}"


@pytest.mark.parametrize("body", SAME)
def test_bodies_are_read_as_by_the_careful_reader(body: bytes) -> None:
    expected = _careful(body)
    if isinstance(expected, dict):
        assert repr(read_json(body)) == repr(expected)
    else:
        with pytest.raises(HTTPError) as refused:
            read_json(body)
        assert (refused.value.status, str(refused.value)) == (400, expected)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**400])
def test_an_integer_beyond_64_bits_is_refused_and_not_read_as_a_float(number: int) -> None:
    with pytest.raises(UnimixerError, match="a: the integer does not fit 64 bits; send large keys as text"):
        read_json(b'{"a": %d}' % number)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"user": 1, "items": [1], "user": 2}', "user"),
        (b'{"user": 1, "context": {"tab": 1, "tab": 2}}', "tab"),
        (b'{"items": [{"item_id": 1}, {"item_id": 2, "tab": 1, "tab": 1}]}', "tab"),
        (b'{"us\\u0065r": 1, "user": 2}', "user"),
        (b'{"a": [[{"b": {"c": 1, "c": 1}}]]}', "c"),
    ],
)
def test_a_field_that_occurs_twice_is_refused_wherever_it_stands(body: bytes, name: str) -> None:
    with pytest.raises(HTTPError, match=f"the field '{name}' occurs twice in one object; send it once") as refused:
        read_json(body)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    "value",
    [
        {"user": "a:b", "items": [":", "::"], "context": {"tab": 1}},
        {"a": {"a": {"a": [{"a": 1}, {"a": 1}]}}},
        {"": 1, ":": {":": ":"}, "lists": [[1], [[2]], []]},
    ],
)
def test_colons_in_texts_and_equal_fields_of_several_objects_are_no_mistake(value: dict[str, Any]) -> None:
    assert read_json(json.dumps(value).encode()) == value


def test_a_body_that_is_nested_deeper_than_python_reads_is_refused() -> None:
    with pytest.raises(HTTPError) as refused:
        read_json(b'{"a":' * 1_020 + b"1" + b"}" * 1_020)
    assert refused.value.status == 400
