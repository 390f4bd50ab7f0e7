"""Read ``dotted.key=value`` on the command line, and change nested values by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.settings.document import Document, copied, read_flow, read_scalar


@dataclass(frozen=True)
class Change:
    """Set one value from the command line."""

    key: str
    value: Any
    origin: str
    """Its name in a message, for example ``override training.seed=1``."""


def read_change(text: str, what: str = "override", example: str = "training.seed=1") -> Change:
    """Read ``key=value``.

    Args:
        text: everything after the first ``=`` is the value.
        what: the noun for it in a message.
        example: of the form.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value if value.isspace() else value.strip()  # a blank may be a separator
    if not equals or not key:
        raise UnimixerError(f"{what} {text!r}: expected key=value, for example {example}")
    if not all(part and part == part.strip() for part in key.split(".")):
        raise UnimixerError(f"{what} {text!r}: the key {key!r} has an empty part; write for example {example}")
    if not value:
        raise UnimixerError(f"{what} {text!r}: no value; write {key}=null for none, or {key}='\"\"' for an empty text")
    origin = f"{what} {text.strip()}"
    return Change(key, parse_scalar(value, origin), origin)


def read_changes(texts: Sequence[str], what: str = "override", example: str = "training.seed=1") -> list[Change]:
    """Read several changes; no two may set one key."""
    changes = [read_change(text, what, example) for text in texts]
    check_distinct(changes)
    return changes


def check_distinct(changes: Sequence[Change]) -> None:
    """Raise if two changes set one key, or one sets a part of the other."""
    for number, change in enumerate(changes):
        for other in changes[:number]:
            if f"{change.key}.".startswith(f"{other.key}.") or f"{other.key}.".startswith(f"{change.key}."):
                both = other.key if other.key == change.key else f"{min(other.key, change.key, key=len)} in part"
                raise UnimixerError(f"{change.origin}: {other.origin} sets {both} too; give one of them")


def parse_scalar(text: str, name: str = "value") -> Any:
    """Read a value of the command line: quotes and brackets as in YAML, all else as one plain scalar."""
    return read_flow(text, name) if text[:1] in tuple("[{'\"") else read_scalar(text)


def override(values: Mapping[str, Any], changes: Sequence[str | Change]) -> Document:
    """Copy nested values with changes, which are texts ``dotted.key=value`` or already read."""
    read = [read_change(change) if isinstance(change, str) else change for change in changes]
    check_distinct(read)
    result: dict[str, Any] = copied(values)
    origins = dict(values.origins) if isinstance(values, Document) else {}
    for change in read:
        key_path = tuple(change.key.split("."))
        new = _set(result, key_path, change)
        origins = {at: origin for at, origin in origins.items() if at[: len(key_path)] != key_path}
        origins |= dict.fromkeys([key_path[:depth] for depth in new], change.origin)
        origins[key_path] = change.origin
    return Document(result, origins)


def _set(values: dict[str, Any], key_path: tuple[str, ...], change: Change) -> list[int]:
    """Set a value; return the depths at which its mappings are new."""
    inner, new = values, list[int]()
    for depth, parent in enumerate(key_path[:-1], start=1):
        if inner.get(parent) is None:
            inner[parent] = {}
            new.append(depth)
        inner = inner[parent]
        if not isinstance(inner, dict):
            above = ".".join(key_path[:depth])
            whole = f"; write the whole list: {above}=[...]" if isinstance(inner, list) else ""
            raise UnimixerError(f"{change.origin}: {above!r} has no keys below it{whole}")
    inner[key_path[-1]] = copied(change.value)
    return new
