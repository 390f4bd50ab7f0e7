"""The table of models in the documentation is the one that the program prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COMMANDS = ("unimixer models --markdown", "unimixer models --budgets --markdown")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_tables_of_models_are_what_the_program_prints(capsys: pytest.CaptureFixture[str], command: str) -> None:
    begin, end = f"<!-- generated: {command} -->", "<!-- end -->"
    with pytest.raises(SystemExit) as ended:
        main(command.split()[1:])
    assert ended.value.code == 0
    printed = capsys.readouterr().out.strip()
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(begin) == 1
    found = text.split(begin)[1].split(end)[0].strip()
    assert found == printed, f"docs/models.md is old; put between its two markers what this prints: {command}"
