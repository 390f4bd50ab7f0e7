"""The lazy group: its list agrees with the files of the verbs."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest

from unimixer import cli
from unimixer.cli import VERBS, load_verb


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_has_the_first_sentence_of_every_verb(verb: str) -> None:
    command = load_verb(verb)
    first = inspect.cleandoc(command.help).split("\n\n")[0]
    assert " ".join(first.split()).startswith(VERBS[verb])


def test_every_verb_is_a_file_and_the_list_holds_all_of_them() -> None:
    folder = Path(cli.__file__).parent
    files = {path.stem for path in (*folder.glob("*.py"), *folder.glob("*/"))} - {"__init__", "__pycache__"}
    verbs = {
        name
        for name in files
        if hasattr(module := import_module(f"unimixer.cli.{name}"), "app")
        or inspect.isfunction(getattr(module, name, None))
    }
    assert verbs == {name.replace("-", "_") for name in VERBS}
