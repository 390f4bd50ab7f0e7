"""The tables of questions: every row names a test or a guide that exists, every command its verb and options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_docs import BLOCK, PAGES

from unimixer.cli import load_verb

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
GUIDES = {getattr(page, "values", (page,))[0] for page in PAGES}


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a title."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


PAINS, FEATURES = rows("Pains"), rows("Features of others")


def sections(page: Path) -> dict[str, str]:
    """The text below every heading of a page, by the anchor of the heading."""
    parts = re.split(r"^#{1,6} (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in parts[1::2]]
    return dict(zip(anchors, parts[2::2], strict=True))


def test_the_commonest_pains_link_a_thread_each_and_every_row_has_a_state() -> None:
    assert len(PAINS) >= 25
    for row in (*PAINS, *FEATURES):
        assert len(row) == 4, row
        assert row[3] in ("answered", "partly", "no"), row
    for pain, *_ in PAINS:
        assert re.search(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", pain), pain
    assert {row[3] for row in PAINS} == {"answered", "partly", "no"}


@pytest.mark.parametrize("row", [*PAINS, *FEATURES], ids=lambda row: row[0][:30])
def test_what_a_row_names_exists(row: list[str]) -> None:
    guides, tests = re.findall(r"\]\(([\w.]+)#([\w-]+)\)", row[2]), re.findall(r"`(tests/[\w/.]+)::(\w+)`", row[2])
    assert guides or tests
    for file, test in tests:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}: {test}"
    for page, anchor in guides:
        assert f"docs/{page}" in GUIDES, page
        assert anchor in sections(ROOT / "docs" / page), f"{page}#{anchor}"
        assert BLOCK.search((ROOT / "docs" / page).read_text(encoding="utf-8")), page


COMMANDS = sorted({command for row in (*PAINS, *FEATURES) for command in re.findall(r"`unimixer ([^`]+)`", row[1])})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_verb_and_the_options_of_a_command_exist(command: str) -> None:
    name, *words = shlex.split(command)
    verb: Any = load_verb(name)
    while hasattr(verb, "commands"):
        verb = verb.commands[words.pop(0)]
    known = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
