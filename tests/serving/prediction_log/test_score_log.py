"""The prediction log: the same answers come back from a folder and from a database, whatever stands in the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_cases import answer

from unimixer.errors import UnimixerError
from unimixer.serving.encoding.request import RankCall
from unimixer.serving.prediction_log.record import AT_ONCE
from unimixer.serving.prediction_log.writer import PART_ROWS, PredictionLog, open_sink, read_log


@pytest.fixture(params=["folder", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of either form."""
    return str(tmp_path / "log") if request.param == "folder" else request.getfixturevalue("log_address")


def written(place: str, *answers: Any) -> list[dict[str, Any]]:
    log = PredictionLog(open_sink(place), flush=60, max_rows=100)
    for one in answers:
        log.add(one)
    log.close()
    return list(read_log(place))


def until(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_write_gives_way_before_every_piece_of_its_answers(place: str) -> None:
    log, ways = PredictionLog(open_sink(place), flush=60, max_rows=100), []
    log.sink.give_way = lambda: ways.append(log.waiting)
    for number in range(2 * AT_ONCE + 1):
        log.add(answer(number))
    log.close()
    assert len(ways) >= 3
    assert set(ways) == {2 * AT_ONCE + 1}  # all wait until all are written
    assert len(list(read_log(place))) == 2 * AT_ONCE + 1


def test_an_answer_comes_back_as_it_was(place: str) -> None:
    one = answer()
    (row,) = written(place, one)
    assert len(row.pop("writer")) == 36
    assert row.pop("call") == {
        "context": {"tab": "home", "position": 3.0},
        "user_columns": {"age": 3},
        "item_columns": None,
        "now": 5,
    }
    np.testing.assert_array_equal(np.asarray(row.pop("scores"), dtype=np.float64), one.scores.T.astype(np.float64))
    assert row == {
        "number": 0,
        "request_id": "r0",
        "answered_ms": 1_700_000_000_123,
        "time_ms": 1_699_999_999_999,
        "model_version": "v1",
        "user": "u3",
        "user_revision": 7,
        "items": one.items,
        "item_revisions": [4, 0, 2**62],
        "tasks": ["click", "like"],
        "fields": ["item_id", "tab", "price", "age"],
        "hashes": [2**64 - 1, 0, 2**63, 12345],  # unsigned, to the last bit
    }


def test_many_answers_of_one_write_come_back_in_their_order(place: str) -> None:
    rows = written(place, *(answer(number) for number in range(3 * AT_ONCE + 1)))
    assert [row["number"] for row in rows] == list(range(3 * AT_ONCE + 1))
    assert [row["request_id"] for row in rows] == [f"r{number}" for number in range(3 * AT_ONCE + 1)]


@pytest.mark.parametrize("text", ["nul \0 here", "\0", "␀", "␀0", "\0␀1␀0", "\\u0000", "\\", "'\"", "𝄞 \u2028", ""])
def test_any_text_comes_back_as_it_was(text: str, place: str) -> None:
    call = RankCall(text, [text], {text: text, "list": [text, None]}, {"c": text}, [{"own": text}], now=1)
    one = answer(user=text, call=call, items=[text, None], item_revisions=np.asarray([1, 2]), hashes={text: 1},
                 scores=np.zeros((2, 2), np.float32))  # fmt: skip
    (row,) = written(place, one)
    assert (row["user"], row["items"], row["fields"]) == (text, [text, None], [text])
    assert row["call"]["context"] == {text: text, "list": [text, None]}
    assert row["call"]["user_columns"] == {"c": text}
    assert row["call"]["item_columns"] == [{"own": text}]


@pytest.mark.parametrize("number", [0.1 + 0.2, 1e22, 1e-7, 5e-324, 1.7e308, 3.0, 2**63 - 1, -(2**63) + 1, -5])
def test_numbers_of_a_call_come_back_as_they_were(number: float, place: str) -> None:
    (row,) = written(place, answer(call=RankCall("u", ["i"], {"x": number}, now=1)))
    found = row["call"]["context"]["x"]
    assert (found, type(found)) == (number, type(number))


@pytest.mark.parametrize("time_ms", [-(2**63), 2**63 - 1, -1])
def test_any_time_of_a_request_comes_back(time_ms: int, place: str) -> None:
    assert written(place, answer(time_ms=time_ms))[0]["time_ms"] == time_ms


def test_an_answer_that_cannot_be_held_does_not_block_the_others(place: str) -> None:
    rejected: list[tuple[str, str]] = []
    count: list[int] = []
    log = PredictionLog(open_sink(place), flush=60, max_rows=100, written=count.append,
                   rejected=lambda request_id, why: rejected.append((request_id, why)))  # fmt: skip
    for number in range(10):
        bad: dict[str, Any] = {
            3: {"user": "secret \ud800"},  # half a character
            4: {"time_ms": 2**63},
            9: {"call": RankCall("u", [], {"secret": object()})},
        }
        log.add(answer(number, **bad.get(number, {})))
    log.flush()
    assert log.waiting == 0
    log.add(answer(10))
    log.close()
    assert [request_id for request_id, _ in rejected] == ["r3", "r4", "r9"]
    assert not any("secret" in why or "\n" in why for _, why in rejected)
    assert [row["number"] for row in read_log(place)] == [0, 1, 2, 5, 6, 7, 8, 10]
    assert sum(count) == 8


def test_request_ids_that_callers_repeat_are_answers_of_their_own(place: str) -> None:
    for _ in range(2):
        rows = written(place, answer(request_id="same"), answer(request_id="same"))
    assert [row["request_id"] for row in rows] == ["same"] * 4
    assert len({(row["writer"], row["number"]) for row in rows}) == 4
    assert len({row["writer"] for row in rows}) == 2


def test_a_full_part_does_not_wait_for_its_time(place: str) -> None:
    log = PredictionLog(open_sink(place), flush=60, max_rows=10 * PART_ROWS)
    for number in range(PART_ROWS):
        log.add(answer(number))
    until(lambda: log.waiting == 0)
    for number in range(3):
        log.add(answer(number))
    log.close()
    assert sum(1 for _ in read_log(place)) == PART_ROWS + 3


def test_a_disk_that_refuses_loses_nothing_that_fits_and_says_what_it_drops(tmp_path: Path) -> None:
    failures: list[str] = []
    dropped: list[int] = []
    folder = tmp_path / "log"
    log = PredictionLog(open_sink(folder), flush=0.02, max_rows=3, failed=failures.append, dropped=dropped.append)
    folder.rmdir()
    folder.write_text("in the way")
    for number in range(5):
        log.add(answer(number))
    until(lambda: bool(failures))
    assert "cannot write" in failures[0]
    assert log.refused
    assert (log.waiting, sum(dropped)) == (3, 2)
    folder.unlink()
    until(lambda: not log.refused)
    log.add(answer(5))
    log.close()
    assert [row["number"] for row in read_log(folder)] == [0, 1, 2, 5]  # a gap is what was lost


def test_a_log_that_cannot_be_written_at_the_end_says_how_many_are_lost(tmp_path: Path) -> None:
    dropped: list[int] = []
    folder = tmp_path / "log"
    log = PredictionLog(open_sink(folder), flush=60, max_rows=10, patience=0.3, dropped=dropped.append)
    folder.rmdir()
    folder.write_text("in the way")
    for number in range(5):
        log.add(answer(number))
    started = time.monotonic()
    with pytest.raises(UnimixerError, match=r"log: the prediction log lost 5 of its answers, .* cannot write"):
        log.close()
    assert time.monotonic() - started >= 0.3
    assert dropped == [5]


def test_what_is_no_prediction_log_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="no prediction log; expected a folder with parts"):
        list(read_log(tmp_path))
    (tmp_path / "scores-1.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UnimixerError, match="not a part of a prediction log"):
        list(read_log(tmp_path))
    for use in (open_sink, read_log):
        with pytest.raises(
            UnimixerError, match="mysql://: not a place of a prediction log; give a folder, or postgresql://"
        ):
            use("mysql://user:secret@host/db")
