"""Read YAML in one way: every key once, every scalar as in YAML 1.2, every value with its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from unimixer.errors import UnimixerError
from unimixer.io import kind_of, near_file

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top to a value."""
MOST_VALUES = 100_000
"""Largest number of values of a file with its aliases written out."""

_TAG = "tag:yaml.org,2002:"
_FLOAT = (
    r"[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SCALARS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)|0x[0-9a-fA-F]+|0o[0-7]+"),
    "float": re.compile(_FLOAT),
}
"""The core schema of YAML 1.2, and ``1_000``: ``no``, ``12:30``, ``007`` and dates are texts, ``1e-3`` is a number. A
field that is a boolean or a date still accepts such a text."""


class Document(dict[str, Any]):
    """Hold values with the origin of each, for error messages.

    Args:
        values: the nested values.
        origins: origin by keys, for example ``recipe.yaml, line 3``.
    """

    def __init__(self, values: Mapping[str, Any], origins: Mapping[KeyPath, str]) -> None:
        super().__init__(values)
        self.origins = dict(origins)

    def origin(self, key_path: KeyPath) -> str | None:
        """Return the origin of a value, or of the nearest mapping that holds it."""
        for length in range(len(key_path), 0, -1):
            if key_path[:length] in self.origins:
                return self.origins[key_path[:length]]
        return None

    def with_values(self, values: Mapping[str, Any], origin: str) -> Document:
        """Copy the document with other values for some keys of the top."""
        kept = {key_path: origin for key_path, origin in self.origins.items() if key_path[0] not in values}
        return Document({**self, **values}, {**kept, **{(key,): origin for key in values}})


def load_yaml(path: Path) -> Document:
    """Read one YAML mapping."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UnimixerError(f"{path}: no such file{near_file(path)}") from None
    except IsADirectoryError:
        kind = kind_of(path) or "a folder"
        raise UnimixerError(f"{path}: is {kind}, expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise UnimixerError(
            f"{path}: not valid YAML: byte {error.object[error.start]:#04x} at position {error.start:,} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    return read_yaml(text, str(path))


def read_yaml(text: str, name: str) -> Document:
    """Read one YAML mapping from a text.

    Args:
        text: the YAML.
        name: of the text in a message.
    """
    values = _Reader(name).read(text)
    if not isinstance(values, Document):
        kind = "nothing" if values is None else type(values).__name__
        raise UnimixerError(f"{name}: expected a mapping of keys to values, found {kind}")
    return values


def read_scalar(text: str) -> Any:
    """Read a plain text as YAML does: a number, true or false, nothing, or itself."""
    kind = next((kind for kind, pattern in _SCALARS.items() if pattern.fullmatch(text)), "str")
    return _scalar(kind, text)


def read_flow(text: str, name: str) -> Any:
    """Read a value in quotes, or a list or mapping in brackets."""
    values = _Reader(name).read(text)
    return dict(values) if isinstance(values, Document) else values


def dump_values(values: Any, **options: Any) -> str:
    """Write YAML that reads back as these values, here and in YAML 1.1."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options))


def _scalar(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quote texts that either version of YAML takes for something else."""


for _kind, _pattern in _SCALARS.items():
    _whole = re.compile(f"(?:{_pattern.pattern})\\Z")
    _Loader.add_implicit_resolver(_TAG + _kind, _whole, None)
    _Dumper.add_implicit_resolver(_TAG + _kind, _whole, None)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<\Z"), None)


class _Reader:
    """Convert the nodes of one text to values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origins: dict[KeyPath, str] = {}
        self._values = 0
        self._open: list[yaml.Node] = []

    def read(self, text: str) -> Any:
        try:
            node = _Loader(text).get_single_node()
            values = None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as error:
            raise self._invalid(error) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise UnimixerError(
                f"{self.name}, line {line}: not valid YAML: character {error.character!r:.20} is not allowed"
            ) from None
        except RecursionError:
            raise UnimixerError(f"{self.name}: not valid YAML: nested too deeply") from None
        return Document(values, self.origins) if isinstance(values, dict) else values

    def _invalid(self, error: yaml.MarkedYAMLError) -> UnimixerError:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        if "another document" in problem:
            return UnimixerError(f"{self.name}{line}: a second document begins here (---); keep one in a file")
        hint = "; indent with spaces" if "'\\t'" in problem else ""
        return UnimixerError(f"{self.name}{line}: not valid YAML: {problem}{hint}")

    def _at(self, node: yaml.Node) -> str:
        return f"{self.name}, line {node.start_mark.line + 1}"

    def _value(self, node: yaml.Node, key_path: KeyPath) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise UnimixerError(
                f"{self._at(node)}: aliases make more than {MOST_VALUES:,} values of this file; use fewer"
            )
        if any(node is other for other in self._open):
            raise UnimixerError(f"{self._at(node)}: an alias refers to a value that contains it")
        kind = node.tag.removeprefix(_TAG)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and kind == "map":
                return self._mapping(node, key_path)
            if isinstance(node, yaml.SequenceNode) and kind == "seq":
                return [self._item(item, (*key_path, number)) for number, item in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode) and kind in ("str", *_SCALARS):
                return _scalar(kind, node.value)
        except ValueError as error:
            if isinstance(error, UnimixerError):
                raise
            raise UnimixerError(f"{self._at(node)}: {node.value!r:.40} is no {kind}") from None
        finally:
            self._open.pop()
        raise UnimixerError(
            f"{self._at(node)}: the tag {node.tag.replace(_TAG, '!!')} has no meaning here; leave it out"
        )

    def _item(self, node: yaml.Node, key_path: KeyPath) -> Any:
        self.origins[key_path] = self._at(node)
        return self._value(node, key_path)

    def _mapping(self, node: yaml.MappingNode, key_path: KeyPath) -> dict[str, Any]:
        """Read keys as texts; the mapping's own keys win over those of merged mappings (``<<``)."""
        values: dict[str, Any] = {}
        merged: list[yaml.MappingNode] = []
        first: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise UnimixerError(f"{self._at(key_node)}: a key is a text, not a list or mapping")
            key = key_node.value
            if key in first:
                inside = f" in {'.'.join(map(str, key_path))!r}" if key_path else ""
                raise UnimixerError(
                    f"{self._at(key_node)}: key {key!r} is given twice{inside}, first in line "
                    f"{first[key].start_mark.line + 1}; keep one of them"
                )
            first[key] = key_node
            if key_node.tag == f"{_TAG}merge":
                merged += self._merged(value_node)
                continue
            self.origins[*key_path, key] = self._at(key_node)
            values[key] = self._value(value_node, (*key_path, key))
        for other in merged:
            own, self.origins = self.origins, {}
            inherited = self._mapping(other, key_path)
            self.origins = own
            for key in [key for key in inherited if key not in values]:
                values[key] = inherited[key]
                self.origins[*key_path, key] = self._at(other)
        return values

    def _merged(self, node: yaml.Node) -> list[yaml.MappingNode]:
        mappings: list[yaml.MappingNode] = []
        for other in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(other, yaml.MappingNode):
                raise UnimixerError(f"{self._at(other)}: << takes a mapping, or a list of mappings")
            if any(other is outer for outer in self._open):
                raise UnimixerError(f"{self._at(other)}: an alias refers to a value that contains it")
            mappings.append(other)
        return mappings


def copied(values: Any) -> Any:
    """Copy mappings and lists deeply."""
    if isinstance(values, Mapping):
        return {key: copied(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [copied(value) for value in values]
    return values


def dotted(key_path: Iterable[str | int]) -> str:
    """Join keys with dots."""
    return ".".join(map(str, key_path))
