"""The base of every config, and the sentence for a value that does not fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from unimixer.errors import UnimixerError
from unimixer.settings.document import Document, Place, dotted, dump_values
from unimixer.settings.suggest import models_in, suggestion

Model = TypeVar("Model", bound="Settings")
LARGEST = 2**63
"""Numbers from here on do not fit into 64 bits, and nothing that is set here is that large."""


class Settings(BaseModel):
    """Base of every config: frozen, every number finite, and a misspelt key is an error instead of a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    synonyms: ClassVar[Mapping[str, str]] = {}
    """By the dotted name of a key: other words of the field for it."""

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
        model: what to build.
        values: nested; those of a :class:`Document` know the line of a file, or the override, that they are from.
        where: what a message calls values that do not.

    Raises:
        UnimixerError: with the first mistake: where, which key, its value, the rule, the nearest known name.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        place, message = _describe(model, error)
        origin = values.origin(place) if isinstance(values, Document) else None
        raise UnimixerError(f"{origin or where}: {message}") from None


def dump_yaml(settings: BaseModel) -> str:
    """The YAML text of a config, keys in the order of their declaration."""
    return dump_values(settings.model_dump(mode="json", exclude_none=True))


def origins_of(settings: BaseModel, values: Document) -> dict[str, str]:
    """Where every key of a config is from, by its dotted name: a line of a file, the command line, or ``default``."""
    return {dotted(place): _origin(values, place) for place, _ in _keys(settings)}


def annotated_yaml(settings: BaseModel, values: Document) -> str:
    """The YAML of every key of a config, those that are none too, with the origin of each as a comment."""
    lines: list[str] = []
    shown: Place = ()
    for place, value in _keys(settings):
        same = next((n for n, (a, b) in enumerate(zip(shown, place[:-1], strict=False)) if a != b), None)
        depth = min(len(shown), len(place) - 1) if same is None else same
        for level in range(depth, len(place) - 1):
            lines.append(f"{'  ' * level}{_flow(place[level])}:")
        shown = place[:-1]
        comment = " ".join(_origin(values, place).split())
        lines.append(f"{'  ' * (len(place) - 1)}{_flow(place[-1])}: {_flow(value)}  # {comment}")
    return "\n".join(lines) + "\n"


def _keys(settings: BaseModel, place: Place = ()) -> list[tuple[Place, Any]]:
    """Keys with their values as plain ones; a mapping whose keys are the user's is one value."""
    found: list[tuple[Place, Any]] = []
    plain = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found += _keys(value, (*place, name))
        else:
            found.append(((*place, name), plain[name]))
    return found


def _origin(values: Document, place: Place) -> str:
    inside: Any = values
    for part in place:
        if not isinstance(inside, Mapping) or part not in inside:
            return "default"
        inside = inside[part]
    return values.origin(place) or "given"


def _flow(value: Any) -> str:
    return dump_values([value], default_flow_style=True, width=float("inf")).strip()[1:-1]


def _describe(model: type[BaseModel], error: ValidationError) -> tuple[Place, str]:
    found = error.errors(include_url=False)
    # a misspelt key is the reason why the right one is missing, so it comes first
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    place, models = _place(model, first["loc"])
    path = dotted(place)
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        return place, f"unknown key {path!r}{suggestion(model, place, models)}"
    if kind == "missing":
        return place, f"{path}: required, but not given"
    if kind.startswith("union_tag"):
        key = f"{path}.{str(context['discriminator']).strip(chr(39))}"
        if kind == "union_tag_not_found":
            return place, f"{key}: required, but not given"
        return place, f"{key}={context['tag']!r}: input should be one of {context['expected_tags']}"
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("dictionary", "mapping")
    if kind == "value_error" and not message.startswith("input should"):
        return place, f"{path}: {message}" if path else message
    given = first["input"]
    value = repr(given)
    hint = "; put a text in quotes" if kind == "string_type" and isinstance(given, int | float) else ""
    shown = value if len(value) <= 80 else value[:77] + "..."
    return place, f"{path}={shown}: {message[0].lower()}{message[1:]}{hint}"


def _place(model: type[BaseModel], location: Sequence[int | str]) -> tuple[Place, list[type[BaseModel]]]:
    """The place of a mistake as the file has it, and the models that stand where its last part is."""
    path: list[str | int] = []
    known, models = [model], [model]
    for part in location:
        tagged = [m for m in models if any(part in get_args(f.annotation) for f in m.model_fields.values())]
        if tagged and not any(part in m.model_fields for m in models):
            models = tagged  # pydantic names the chosen kind of a union; the file does not
            continue
        path.append(part)
        if isinstance(part, int):
            continue
        known = models
        models = [m for k in models if part in k.model_fields for m in models_in(k.model_fields[part].annotation)]
    return tuple(path), known
