"""Typed settings from YAML: one parser for schemas and recipes, one sentence for every mistake in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from unimixer.errors import UnimixerError, nearest

Model = TypeVar("Model", bound="Settings")


class Settings(BaseModel):
    """Base of every config: frozen, and a misspelt key is an error instead of a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def parse(model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Build ``model`` from plain values.

    Raises:
        UnimixerError: with the first mistake: where, which key, its value, the rule, the nearest known name.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UnimixerError(f"{where}: {_describe(model, error)}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnimixerError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UnimixerError(f"{path}: is a folder, expected a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnimixerError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UnimixerError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    return values


def dump_yaml(settings: BaseModel) -> str:
    """The YAML text of a config, keys in the order of their declaration."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested values with ``dotted.key=value`` changes; values are read as YAML."""
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(values)))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UnimixerError(f"override {text!r}: expected key=value, for example training.seed=1")
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise UnimixerError(f"override {text!r}: {parent!r} has no keys below it")
        place[last] = parse_scalar(value)
    return result


def parse_scalar(text: str) -> Any:
    """A value as YAML reads it; 1e-3 is a number."""
    if text and not any(c.isalnum() or c in "\"'[]{}~" for c in text):
        return text  # a mark such as | or :: stands for itself
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    found = error.errors(include_url=False)
    # a misspelt key is the reason why the right one is missing, so it comes first
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    path, keys = _place(model, first["loc"])
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {path!r}{nearest(str(first['loc'][-1]), keys)}"
    if kind == "missing":
        return f"{path}: required, but not given"
    if kind.startswith("union_tag"):
        key = f"{path}.{str(context['discriminator']).strip(chr(39))}"
        if kind == "union_tag_not_found":
            return f"{key}: required, but not given"
        return f"{key}={context['tag']!r}: input should be one of {context['expected_tags']}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("dictionary", "mapping")
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    value = repr(first["input"])
    return f"{path}={value if len(value) <= 80 else value[:77] + '...'}: {message[0].lower()}{message[1:]}"


def _place(model: type[BaseModel], location: Sequence[int | str]) -> tuple[str, list[str]]:
    """The dotted path of a mistake as the file has it, and the keys that are known where its last part stands."""
    path: list[str] = []
    known, models = [model], [model]
    for part in location:
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        if tagged and not any(part in m.model_fields for m in models):
            models = tagged  # pydantic names the chosen kind of a union; the file does not
            continue
        path.append(str(part))
        if isinstance(part, int):
            continue
        known = models
        models = [m for k in models if part in k.model_fields for m in _models_in(k.model_fields[part].annotation)]
    return ".".join(path), sorted({key for m in known for key in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
