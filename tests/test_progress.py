"""What people are told: bars on a terminal, plain lines elsewhere, and the log of both."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

import pytest

from unimixer import progress
from unimixer.errors import UnimixerError
from unimixer.progress import Progress, audience, progress_bar, say, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_writes_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long work that takes a moment."""
    monkeypatch.setattr(progress, "SILENCE", 0.05)
    monkeypatch.setattr(progress, "LOOK", 0.01)


def shown_within(capsys: pytest.CaptureFixture[str], lines: int = 1) -> list[str]:
    """The first lines of standard error."""
    text, end = "", time.monotonic() + 10
    while text.count("\n") < lines and time.monotonic() < end:
        time.sleep(0.01)
        text += capsys.readouterr().err
    assert "\r" not in text
    assert "\x1b" not in text
    return text.splitlines()


@pytest.mark.usefixtures("impatient")
def test_long_work_says_where_it_stands_whether_or_not_it_moves(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("encoding", 10_000) as advance:
        assert shown_within(capsys)[0] == "encoding: 0/10,000 rows, 0.0 rows/s"
        advance(2_500)
        line = shown_within(capsys, 2)[-1]
    assert re.fullmatch(r"encoding: 2,500/10,000 rows, [\d,.]+ rows/s, about \d+ s left", line)
    with stage("writing the graph"):
        assert shown_within(capsys)[0] == "writing the graph: 0 s so far"


@pytest.mark.usefixtures("impatient")
def test_the_innermost_work_is_what_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("training", 10), progress_bar("evaluating", 5):
        lines = shown_within(capsys, 3)
    assert {line.partition(":")[0] for line in lines} == {"evaluating"}


def test_a_line_says_how_fast_and_how_long_not_counting_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stand = Progress("training", 10_000, "rows", done=4_000)
    now[0] += 20
    stand.done += 2_000
    assert stand.line() == "training: 6,000/10,000 rows, 100 rows/s, about 40 s left"
    known = Progress("scoring", None, "rows", done=0)
    known.done += 5
    now[0] += 10
    assert known.line() == "scoring: 5 rows, 0.5 rows/s"


@pytest.mark.usefixtures("impatient")
def test_the_log_has_what_was_said_with_its_time_and_a_quiet_person_hears_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "train.log"
    for quiet in (False, True):
        with audience(log, quiet=quiet):
            say(f"quiet {quiet}")
    with audience(log, quiet=True), progress_bar("evaluating", 5):
        end = time.monotonic() + 10
        while "evaluating" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.01)
    assert capsys.readouterr() == ("", "quiet False\n")
    lines = log.read_text().splitlines()
    times = {re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00)  .*", line) for line in lines}
    assert None not in times
    assert [line.partition("  ")[2] for line in lines[:3]] == [
        "quiet False", "quiet True", "evaluating: 0/5 rows, 0.0 rows/s",
    ]  # fmt: skip


def test_a_terminal_shows_a_bar_and_its_line_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with audience(tmp_path / "log"):
        say("step 1", below_a_bar=True)
        say("best")
    assert terminal.getvalue() == "best\n"
    assert [line.partition("  ")[2] for line in (tmp_path / "log").read_text().splitlines()] == ["step 1", "best"]


def test_what_ends_the_work_is_the_last_line_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnimixerError), audience(tmp_path / "log"):
        raise UnimixerError("the loss is not finite")
    with pytest.raises(KeyError), audience(tmp_path / "log"):
        raise KeyError("x")
    found = [line.partition("  ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert found == ["error: the loss is not finite", "error: KeyError('x')"]
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_ends_the_work_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UnimixerError, match=r"file/train\.log: cannot write: a part of the path is a file"),
        audience(tmp_path / "file" / "train.log", quiet=True),
    ):
        say("step 1")
