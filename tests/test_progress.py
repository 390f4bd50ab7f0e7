"""Progress bars: on a terminal only."""

from __future__ import annotations

import io
import sys

import pytest

from unimixer.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("encoding", 10) as advance:
        advance(5)
        advance(5, "done")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("total", "shown"), [(2_000, "1,000/2,000 rows"), (None, "1,000 rows")])
def test_a_terminal_sees_the_rows_and_the_note(monkeypatch: pytest.MonkeyPatch, total: int | None, shown: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("encoding", total) as advance:
        advance(1_000, "loss 0.5")
        advance(0)
    assert "encoding" in terminal.getvalue()
    assert shown in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()
