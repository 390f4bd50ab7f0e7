"""Write the reference from the code: verbs from the command line, keys from the settings, names from the modules."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from errors import errors_page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from unimixer.abtest.specification import Experiment
from unimixer.cli import VERBS, load_verb
from unimixer.data.schema import Schema
from unimixer.experiments.plan import Study
from unimixer.training.config import Recipe

SETTINGS: dict[str, tuple[str, type[BaseModel]]] = {
    "recipe": (
        "A recipe: what `unimixer train` reads. `unimixer config show RECIPE` prints every key with its value.",
        Recipe,
    ),
    "schema": ("A schema: the meaning of the columns of a log. `unimixer data init` writes a first one.", Schema),
    "study": ("A study: what `unimixer compare` reads.", Study),
    "experiment": (
        "The specification of an online experiment: what `unimixer abtest` and `unimixer serve` read.",
        Experiment,
    ),
}
MODULES = ("mixing", "backbones", "blocks", "ops")


def reference_pages(*, with_api: bool = True) -> dict[str, str]:
    """Return the text of every page of the reference by its path.

    Args:
        with_api: also the pages of classes and functions, which take longest to build.
    """
    pages = {f"reference/{name}.md": keys_page(name) for name in SETTINGS} | {"reference/verbs.md": verbs_page()}
    pages["reference/errors.md"] = errors_page()
    if with_api:
        pages |= {f"reference/{name}.md": module_page(name) for name in MODULES}
        pages["reference/python.md"] = python_page()
    return {"reference/index.md": index_page(pages)} | pages


def index_page(pages: dict[str, str]) -> str:
    """List the pages by their titles."""
    lines = [f"- [{text.partition(chr(10))[0].lstrip('# ')}]({uri.rpartition('/')[2]})" for uri, text in pages.items()]
    return "# Reference\n\nThese pages are written from the code of this version.\n\n" + "\n".join(lines) + "\n"


def verbs_page() -> str:
    """Write usage, help and options of every verb."""
    parts = ["# Verbs", "Every verb of the command line. `--help` prints the same."]
    for verb in VERBS:
        for name, command in _commands(f"unimixer {verb}", load_verb(verb)):
            words = [_usage(parameter) for parameter in _parameters(command)]
            parts += [f"## {name}", _prose(command.help or ""), f"```\n{' '.join([name, *filter(None, words)])}\n```"]
            rows = [_row(parameter) for parameter in _parameters(command)]
            if rows:
                parts.append(_table(("argument or option", "meaning", "default"), rows))
    return "\n\n".join(parts) + "\n"


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over a command, or over those of a group at any depth."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for verb, inner in command.commands.items():
        yield from _commands(f"{name} {verb}", inner)


def _parameters(command: Any) -> list[Any]:
    return [
        parameter
        for parameter in command.params
        if parameter.name != "help" and not getattr(parameter, "hidden", False)
    ]


def _usage(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name.upper()).strip("[].")
        name = f"{name}..." if parameter.nargs == -1 else name
        return name if parameter.required else f"[{name}]"
    return f"{parameter.opts[0]} {parameter.name.upper()}" if parameter.required else ""


def _row(parameter: Any) -> tuple[str, str, str]:
    argument = parameter.param_type_name == "argument"
    names = (
        [(parameter.metavar or parameter.name.upper()).strip("[].")]
        if argument
        else [*parameter.opts, *parameter.secondary_opts]
    )
    default = parameter.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    shown = "required" if parameter.required else f"`{default}`" if plain and default != "" else ""
    return ", ".join(f"`{name}`" for name in names), _prose(getattr(parameter, "help", None) or ""), shown


def keys_page(name: str) -> str:
    """Write every key of some settings with its values, its default and its meaning."""
    subject, model = SETTINGS[name]
    parts = [f"# Keys of {'an' if name[0] in 'aeiou' else 'a'} {name}", subject]
    for title, section in sections(model):
        fixed = [
            f" ({key}: {kind[0]})" for key, field in section.model_fields.items() if len(kind := _literal(field)) == 1
        ]
        parts.append(f"## {title or 'top'}{''.join(fixed)}")
        summary = inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0]
        if summary:
            parts.append(_prose(summary))
        rows = [
            (f"`{key}`", f"{_escaped(type_name(field.annotation))}", _default(field), _prose(field.description or ""))
            for key, field in section.model_fields.items()
        ]
        parts.append(_table(("key", "values", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Iterate over a model and the models inside it, with the dotted path of each; every model comes once."""
    seen: set[type[BaseModel]] = set()

    def below(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
        if model in seen:
            return
        seen.add(model)
        yield path, model
        for key, field in model.model_fields.items():
            for inner, suffix in _models(field.annotation):
                yield from below(inner, f"{path}.{key}{suffix}".lstrip("."))

    yield from below(model, path)


def _models(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Iterate over the settings that a field may hold; ``[]`` is an entry of a list, ``.NAME`` one of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models(arguments[0], suffix)
    elif origin in (tuple, list):
        yield from _models(arguments[0], f"{suffix}[]")
    elif origin is not None and issubclass_safe(origin, dict):
        yield from _models(arguments[1], f"{suffix}.NAME")
    elif origin in (Union, UnionType):
        for one in arguments:
            yield from _models(one, suffix)


def _literal(field: Any) -> tuple[Any, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def issubclass_safe(kind: Any, base: type) -> bool:
    """Return whether a kind is a class below another."""
    return isinstance(kind, type) and issubclass(kind, base)


def type_name(annotation: Any) -> str:
    """Name the values of a field in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(type_name(one) for one in arguments)
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}"
    if issubclass_safe(origin, dict):
        return f"mapping of names to {type_name(arguments[1])}"
    if issubclass_safe(annotation, BaseModel):
        return "section"
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true, false",
        NoneType: "null",
        Any: "any value",
        dict: "mapping",
    }
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel) or value in ({}, (), None, ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def module_page(name: str) -> str:
    """Write the public names of a module of the model."""
    module = import_module(f"unimixer.{name}")
    summary = inspect.cleandoc(module.__doc__ or "")
    names = [public for public in module.__all__ if not public.isupper() and callable(getattr(module, public))]
    return (
        "\n\n".join([f"# unimixer.{name}", _prose(summary), *(f"::: {_home(module, public)}" for public in names)])
        + "\n"
    )


def _home(module: Any, name: str) -> str:
    value = getattr(module, name)
    return f"{getattr(value, '__module__', module.__name__)}.{getattr(value, '__qualname__', name)}"


def python_page() -> str:
    """Write what ``import unimixer`` has."""
    import unimixer

    names = [name for name in unimixer.__all__ if name != "BACKBONES"]
    listed = ", ".join(f"`{name}`" for name in names)
    return (
        "\n\n".join(
            ["# Python", f"`import unimixer` has {listed}.", *(f"::: {_home(unimixer, name)}" for name in names)]
        )
        + "\n"
    )


def _prose(text: str) -> str:
    """Write a docstring or a help text as one paragraph of Markdown for each of its own."""
    text = re.sub(r":(?:class|func|meth|mod|attr):`~?([^`]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    text = text.replace("``", "`").replace("\b", "")
    paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]
    return "\n\n".join(_escaped(paragraph) for paragraph in paragraphs)


def _escaped(text: str) -> str:
    """Escape Markdown outside code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a single backtick is no code
        return re.sub(r"([\\`*_\[\]|$])", r"\\\1", html.escape(text, quote=False))
    for number, part in enumerate(parts):
        code = number % 2 == 1
        parts[number] = f"`{part}`" if code else re.sub(r"([\\*_\[\]$])", r"\\\1", html.escape(part, quote=False))
    return "".join(parts)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [
        columns,
        tuple("---" for _ in columns),
        *(tuple(c.replace("\n\n", "<br>").replace("|", "\\|") for c in row) for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
