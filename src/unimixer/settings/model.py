"""Parse typed settings: the base of every config, and the sentence for a value or key that does not fit it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from unimixer.errors import UnimixerError, nearest
from unimixer.settings.document import Document, KeyPath, dotted, dump_values

Model = TypeVar("Model", bound="Settings")
_NEAR, _VERY_NEAR = 0.6, 0.8
_SHOWN = 3
LARGEST = 2**63
"""Smallest number that does not fit into 64 bits."""


class Settings(BaseModel):
    """Base of every config: frozen, every number finite, and a misspelt key is an error instead of a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    synonyms: ClassVar[Mapping[str, str]] = {}
    """Other words of the field for a key, by its dotted name."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """The present name of a key by its former one."""

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(one, int) and abs(one) >= LARGEST for one in values):
            raise ValueError("input should be a number of at most 64 bits")
        return value


def parse(model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Build ``model`` from plain values.

    Args:
        model: the class of the settings.
        values: nested; those of a :class:`Document` know their line of a file, or their override.
        where: the name of other values in a message.

    Raises:
        UnimixerError: the first mistake: where, which key, its value, the rule, the nearest known name.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        key_path, message = _describe(model, error)
        origin = values.origin(key_path) if isinstance(values, Document) else None
        raise UnimixerError(f"{origin or where}: {message}") from None


def dump_yaml(settings: BaseModel) -> str:
    """Write a config as YAML, keys in the order of their declaration."""
    return dump_values(settings.model_dump(mode="json", exclude_none=True))


def origins_of(settings: BaseModel, values: Document) -> dict[str, str]:
    """Find the origin of every key by its dotted name: a line of a file, the command line, or ``default``."""
    return {dotted(key_path): _origin(values, key_path) for key_path, _ in _keys(settings)}


def annotated_yaml(settings: BaseModel, values: Document) -> str:
    """Write every key of a config as YAML, also those without a value, with the origin of each as a comment."""
    lines: list[str] = []
    shown: KeyPath = ()
    for key_path, value in _keys(settings):
        same = next((n for n, (a, b) in enumerate(zip(shown, key_path[:-1], strict=False)) if a != b), None)
        depth = min(len(shown), len(key_path) - 1) if same is None else same
        for level in range(depth, len(key_path) - 1):
            lines.append(f"{'  ' * level}{_flow(key_path[level])}:")
        shown = key_path[:-1]
        comment = " ".join(_origin(values, key_path).split())
        lines.append(f"{'  ' * (len(key_path) - 1)}{_flow(key_path[-1])}: {_flow(value)}  # {comment}")
    return "\n".join(lines) + "\n"


def _keys(settings: BaseModel, key_path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    """List keys with their plain values; a mapping with keys of the user is one value."""
    pairs: list[tuple[KeyPath, Any]] = []
    plain = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            pairs += _keys(value, (*key_path, name))
        else:
            pairs.append(((*key_path, name), plain[name]))
    return pairs


def _origin(values: Document, key_path: KeyPath) -> str:
    inside: Any = values
    for part in key_path:
        if not isinstance(inside, Mapping) or part not in inside:
            return "default"
        inside = inside[part]
    return values.origin(key_path) or "given"


def _flow(value: Any) -> str:
    return dump_values([value], default_flow_style=True, width=float("inf")).strip()[1:-1]


def _new_name(key_path: KeyPath, models: Sequence[type[BaseModel]]) -> str:
    """Name the present key if an unknown key is a former one."""
    former = str(key_path[-1])
    names = [model.renamed[former] for model in models if issubclass(model, Settings) and former in model.renamed]
    return f"; it is now {dotted((*key_path[:-1], names[0]))!r}" if names else ""


def _describe(model: type[BaseModel], error: ValidationError) -> tuple[KeyPath, str]:
    mistakes = error.errors(include_url=False)
    # a misspelt key is the reason why the right one is missing, so it comes first
    first = next((e for e in mistakes if e["type"] == "extra_forbidden"), mistakes[0])
    key_path, models = _key_path(model, first["loc"])
    path = dotted(key_path)
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return key_path, f"unknown key {path!r}{_new_name(key_path, models) or suggestion(model, key_path, models)}"
    if kind == "missing":
        return key_path, f"{path}: required, but not given"
    if kind.startswith("union_tag"):
        key = f"{path}.{str(context['discriminator']).strip(chr(39))}"
        if kind == "union_tag_not_found":
            return key_path, f"{key}: required, but not given"
        return key_path, f"{key}={context['tag']!r}: input should be one of {context['expected_tags']}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("dictionary", "mapping")
    if kind == "value_error" and not message.startswith("input should"):
        return key_path, f"{path}: {message}" if path else message
    value = repr(first["input"])
    hint = "; put a text in quotes" if kind == "string_type" and isinstance(first["input"], int | float) else ""
    shown = value if len(value) <= 80 else value[:77] + "..."
    return key_path, f"{path}={shown}: {message[0].lower()}{message[1:]}{hint}"


def _key_path(model: type[BaseModel], location: Sequence[int | str]) -> tuple[KeyPath, list[type[BaseModel]]]:
    """Find the keys of a mistake as the file has them, and the models at its last key."""
    keys: list[str | int] = []
    known, models = [model], [model]
    for part in location:
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        if tagged and not any(part in m.model_fields for m in models):
            models = tagged  # pydantic names the chosen kind of a union; the file does not
            continue
        keys.append(part)
        if isinstance(part, int):
            continue
        known = models
        if any(part in k.model_fields for k in models):  # otherwise it is a name that the user gives
            models = [m for k in models if part in k.model_fields for m in models_in(k.model_fields[part].annotation)]
    return tuple(keys), known


def suggestion(root: type[BaseModel], key_path: KeyPath, models: Sequence[type[BaseModel]]) -> str:
    """Write ``"; did you mean 'optimizer.dense_lr'?"`` for an unknown key, or list the known keys.

    Args:
        root: the whole config.
        key_path: of the unknown key.
        models: the models at that place.
    """
    name = str(key_path[-1]).lower().replace("-", "_")
    inside = f"{dotted(key_path[:-1])}." if key_path[:-1] else ""
    siblings = {key for model in models for key in model.model_fields}
    if name in siblings:
        return f"; did you mean {name!r}?"
    here = [inside + key for model in models for key in _known_keys(model)]
    everywhere = list(_known_keys(root))
    meant = [inside + key for model in models for key in _synonyms(model, name)] + _synonyms(root, name)
    same = [key for key in here if _last(key) == name] or [key for key in everywhere if _last(key) == name]
    matches = meant[:1] or same[:_SHOWN]
    if matches:  # a sibling is named without the keys above it
        names = [_last(key) if key == inside + _last(key) else key for key in matches]
        return f"; did you mean {' or '.join(map(repr, names))}?"
    if difflib.get_close_matches(name, siblings, n=1, cutoff=_NEAR):
        return nearest(name, siblings)
    near = difflib.get_close_matches(name, {_last(key) for key in everywhere}, n=1, cutoff=_VERY_NEAR)
    if near:
        return f"; did you mean {next(key for key in everywhere if _last(key) == near[0])!r}?"
    return nearest(name, siblings)


def _synonyms(model: type[BaseModel], name: str) -> list[str]:
    return [key for key, words in getattr(model, "synonyms", {}).items() if name in words.split()]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """List the models that a field may hold, at any depth of lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def _known_keys(model: type[BaseModel]) -> Iterator[str]:
    """Iterate over the dotted keys of a config; ``[]`` is the number in a list, ``*`` a name of the user."""
    for name, field in model.model_fields.items():
        yield name
        text = str(field.annotation)
        below = f"{name}.*." if text.startswith("dict") else f"{name}[]." if text.startswith("tuple") else f"{name}."
        for inner in models_in(field.annotation):
            yield from (below + key for key in _known_keys(inner))


def _last(key: str) -> str:
    return key.rpartition(".")[2]
