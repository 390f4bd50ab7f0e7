"""Which key was meant: the same word elsewhere, another word of the field, or a near one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from unimixer.errors import nearest
from unimixer.settings.document import Place, dotted

_NEAR, _VERY_NEAR = 0.6, 0.8
_SHOWN = 3


def suggestion(root: type[BaseModel], place: Place, models: Sequence[type[BaseModel]]) -> str:
    """``"; did you mean 'optimizer.dense_lr'?"`` for an unknown key, or the keys that are known there.

    Args:
        root: the whole config.
        place: of the unknown key.
        models: what stands there.
    """
    name = str(place[-1]).lower().replace("-", "_")
    inside = f"{dotted(place[:-1])}." if place[:-1] else ""
    siblings = {key for model in models for key in model.model_fields}
    if name in siblings:
        return f"; did you mean {name!r}?"
    here = [inside + key for model in models for key in _keys(model)]
    everywhere = list(_keys(root))
    meant = [inside + key for model in models for key in _synonyms(model, name)] + _synonyms(root, name)
    same = [key for key in here if _last(key) == name] or [key for key in everywhere if _last(key) == name]
    found = meant[:1] or same[:_SHOWN]
    if found:
        found = [
            _last(key) if key == inside + _last(key) else key for key in found
        ]  # beside it: its own name is enough
        return f"; did you mean {' or '.join(map(repr, found))}?"
    if difflib.get_close_matches(name, siblings, n=1, cutoff=_NEAR):
        return nearest(name, siblings)
    near = difflib.get_close_matches(name, {_last(key) for key in everywhere}, n=1, cutoff=_VERY_NEAR)
    if near:
        return f"; did you mean {next(key for key in everywhere if _last(key) == near[0])!r}?"
    return nearest(name, siblings)


def _synonyms(model: type[BaseModel], name: str) -> list[str]:
    return [key for key, words in getattr(model, "synonyms", {}).items() if name in words.split()]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, at any depth of lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in models_in(argument)]


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Dotted keys of a config; ``[]`` stands for the number in a list, ``*`` for a name that the user gives."""
    for name, field in model.model_fields.items():
        yield name
        text = str(field.annotation)
        below = f"{name}.*." if text.startswith("dict") else f"{name}[]." if text.startswith("tuple") else f"{name}."
        for inner in models_in(field.annotation):
            yield from (below + key for key in _keys(inner))


def _last(key: str) -> str:
    return key.rpartition(".")[2]
