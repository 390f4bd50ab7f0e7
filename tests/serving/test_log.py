"""The log of the server: nobody waits for it, nothing is lost without a count, every line is JSON."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served import Served

from unimixer.serving import log as log_module
from unimixer.serving.log import Log, standard_error
from unimixer.serving.prediction_log.writer import read_log

ASKED = 60


def closed_pipe() -> tuple[int, Callable[[], None]]:
    """A pipe whose reader goes away."""
    reading, writing = os.pipe()
    return writing, lambda: os.close(reading)


def unread_pipe() -> tuple[int, Callable[[], None]]:
    """A pipe that is full after a few lines, and that nobody reads."""
    _, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    return writing, lambda: None


def full_disk() -> tuple[int, Callable[[], None]]:
    return os.open("/dev/full", os.O_WRONLY), lambda: None


@pytest.mark.parametrize(("make", "loses"), [(closed_pipe, True), (unread_pipe, False), (full_disk, True)])
def test_answers_are_recorded_and_a_signal_stops_the_server_where_standard_error_cannot_be_written(
    make: Callable[[], tuple[int, Callable[[], None]]],
    loses: bool,
    bundles: tuple[Path, Path],
    features: Path,
    tmp_path: Path,
) -> None:
    stderr, break_it = make()
    place = tmp_path / "log"
    with Served(bundles[0], features, "--prediction-log", str(place), "--flush", "60", stderr=stderr) as served:
        break_it()
        client = served.client()
        answers = [client.rank() for _ in range(ASKED)]
        client.close()
        assert {answer.status for answer in answers} == {200}
        assert served.get("/health/live").status == 200
        if loses:
            time.sleep(0.2)
            assert served.metrics()["unimixer_log_lines_lost_total"] >= ASKED
        before = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - before < 10
    os.close(stderr)
    written = [row["request_id"] for row in read_log(place)]
    assert sorted(written) == sorted(answer.headers["X-Request-ID"] for answer in answers)


def test_a_server_that_cannot_start_ends_with_its_exit_code_where_standard_error_cannot_be_written(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    for make in (closed_pipe, full_disk):
        stderr, break_it = make()
        served = Served(bundles[0], tmp_path / "missing.sqlite", stderr=stderr)
        break_it()
        assert served.process.wait(60) == 2
        served.__exit__()
        os.close(stderr)


class Flaky(io.StringIO):
    """A stream in memory that refuses now and then."""

    refuses = False

    def write(self, text: str) -> int:
        if self.refuses:
            raise OSError("no space left on device")
        return super().write(text)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def wait_for(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lost_lines_are_counted_and_the_next_line_that_gets_through_tells_how_many() -> None:
    stream, lost = Flaky(), []
    log = Log(stream, lost=lost.append)
    stream.refuses = True
    for number in range(3):
        log("request", number=number)
    wait_for(lambda: sum(lost) == 3)
    stream.refuses = False
    log("request", number=3)
    assert log.close()
    assert [line["event"] for line in stream.lines] == ["log lines lost", "request"]
    assert (stream.lines[0]["lines"], stream.lines[1]["number"]) == (3, 3)
    log("late")
    assert sum(lost) == 4


def test_of_lines_that_are_written_together_those_that_are_cut_are_lost_and_the_others_are_not() -> None:
    lost, written, disk_fills = list[int](), bytearray(), iter([True])
    log = Log(io.StringIO(), lost=lost.append)

    def put(data: bytes) -> int:
        """Take all until the disk is full, in the middle of the second line."""
        if data.startswith(b"cond"):
            raise OSError("no space left on device")
        taken = data[: data.index(b"cond")] if next(disk_fills, False) else data
        written.extend(taken)
        return len(taken)

    log._put = put
    log._write([b"first\n", b"second\n", b"third\n"])
    assert (bytes(written), sum(lost)) == (b"first\nse", 2)
    log._write([b"fourth\n"])
    assert log.close()
    first, cut, told, fourth = bytes(written).splitlines()
    assert (first, cut, json.loads(told)["lines"], fourth) == (b"first", b"se", 2, b"fourth")


def test_a_line_of_facts_that_plain_json_has_no_form_for_is_written() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log("request", number=1 << 80, text="\ud800", other={1, 2}.__class__)
    wait_for(lambda: stream.getvalue().endswith("\n"))
    assert json.loads(stream.getvalue())["number"] == 1 << 80
    assert log.close()


def test_lines_that_wait_have_a_bound_and_nobody_waits_for_a_stream_that_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_module, "MAX_LINES", 5)
    monkeypatch.setattr(log_module, "CLOSE_S", 0.2)
    release, lost = threading.Event(), []

    class Blocking(io.StringIO):
        def write(self, text: str) -> int:
            release.wait(30)
            return super().write(text)

    stream = Blocking()
    log = Log(stream, lost=lost.append)
    log("first")
    wait_for(lambda: not log._lines)  # the writer stands in its write
    before = time.monotonic()
    for _ in range(8):
        log("more")
    assert sum(lost) == 3
    assert not log.close()
    assert time.monotonic() - before < 2
    assert sum(lost) == 8
    release.set()
    log._thread.join(10)


def test_whatever_python_code_writes_to_standard_error_is_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("secret of a user")

    before = sys.stderr
    with warnings.catch_warnings(), standard_error(Log()):
        warnings.simplefilter("always")
        print("plain", "text\nof two lines", file=sys.stderr)
        warnings.warn("take care", RuntimeWarning, stacklevel=1)
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")  # the refusal has its own line
        logging.getLogger("uvicorn.error").warning("Exceeded request limit.")
        try:
            fail()
        except KeyError:
            logging.getLogger("asyncio").exception("it failed")
        thread = threading.Thread(target=fail, name="failing")
        thread.start()
        thread.join()
    assert sys.stderr is before
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == [
        "standard error",
        "standard error",
        "library",
        "library",
        "library",
        "failure",
    ]
    assert [line["text"] for line in lines[:2]] == ["plain text", "of two lines"]
    assert "RuntimeWarning: take care" in lines[2]["text"]
    assert (lines[3]["name"], lines[3]["text"]) == ("uvicorn.error", "Exceeded request limit.")
    assert (lines[4]["error"], lines[5]["error"]) == ("KeyError", "KeyError")
    assert lines[5]["at_lines"][-1].endswith("fail")
    assert "secret" not in text
