"""Every public class of the model says its equation, its source and its shapes, and all examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

import unimixer

ROOMS = ("mixing", "blocks", "backbones", "features")
BASES = {"Transient", "Auxiliary", "Recomputing", "PerTask", "Discretizable"}
"""Bases that compute nothing: they have neither an equation nor shapes nor a source."""
PARTS = {
    "an equation": r":math:|\.\. math::",
    "a block of shapes": r"^Shape:$",
    "a source": r"arXiv:\d{4}\.\d{5}|\(ICDM|^Source: ",
    "a runnable example": r"^    >>> ",
}
ROOT = Path(unimixer.__file__).parent


def public_classes() -> list[type]:
    rooms = [importlib.import_module(f"unimixer.{room}") for room in ROOMS]
    return [value for room in rooms for name in room.__all__ if inspect.isclass(value := getattr(room, name))]


def modules() -> list[str]:
    """Names of all modules whose docstrings have examples, but for those of the root, which read files."""
    paths = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    return [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
        if "triton" not in path.name and "kernels" not in path.parts and path.name != "api.py"
    ]


def failures(module: ModuleType) -> str:
    """Run the examples of a module; return what differs."""
    lines: list[str] = []
    finder = doctest.DocTestFinder(exclude_empty=True)
    for test in finder.find(module, module.__name__):
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=lines.append)
    return "".join(lines)


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__name__)
def test_a_public_class_says_what_it_computes(kind: type) -> None:
    text = inspect.getdoc(kind) or ""
    assert kind.__doc__, "the docstring is that of a base"
    needed = list(PARTS) if issubclass(kind, nn.Module) and kind.__name__ not in BASES else ["a runnable example"]
    assert [part for part in needed if not re.search(PARTS[part], text, re.MULTILINE)] == []


@pytest.mark.parametrize("kind", [k for k in public_classes() if issubclass(k, nn.Module)], ids=lambda k: k.__name__)
def test_every_argument_of_a_module_is_bound_to_its_meaning(kind: type) -> None:
    options = getattr(kind, "Options", None) or kind
    if kind.__name__ in BASES or options.__init__ is nn.Module.__init__:
        return
    text = "\n".join(inspect.getdoc(one) or "" for one in kind.__mro__ if one.__module__.startswith("unimixer."))
    names = [name for name, p in inspect.signature(options).parameters.items() if p.kind is not p.VAR_KEYWORD]
    assert [name for name in names if not re.search(rf"^    {name}: |``{name}[=`]", text, re.MULTILINE)] == []


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name: str) -> None:
    assert failures(importlib.import_module(name)) == ""


def test_the_examples_of_the_root_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # each goes on with the files of the one before
    api = importlib.import_module("unimixer.api")
    found = {test.name: test for test in doctest.DocTestFinder().find(api, "api", globs=vars(api).copy())}
    lines: list[str] = []
    for name in ("prepare", "train", "Run", "evaluate", "predict", "export"):
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found[f"api.{name}"], out=lines.append)
    assert "".join(lines) == ""
