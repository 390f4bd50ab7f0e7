"""The table of models in the documentation is the one that the program prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
COMMAND = "unimixer models --markdown"
BEGIN, END = f"<!-- generated: {COMMAND} -->", "<!-- end -->"


def test_the_table_of_models_is_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(COMMAND.split()[1:])
    assert ended.value.code == 0
    printed = capsys.readouterr().out.strip()
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    found = text.split(BEGIN)[1].split(END)[0].strip()
    assert found == printed, f"docs/models.md is old; put between its two markers what this prints: {COMMAND}"
