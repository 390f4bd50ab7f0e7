"""A store in a file that is replaced or left half-written, also under a running server: what is answered then."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from own_process import script
from served import CONTEXT, Served
from sqlite_cases import ITEMS, build, content
from toy import DAY, START

from unimixer.bundles import open_bundle
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.stores.base import ANY_EVENT, StoreUnavailableError
from unimixer.serving.stores.sqlite import SQLiteStore

NOW = START + 20 * DAY


def scores(bundle: Path, path: Path, tmp_path: Path) -> list[float]:
    """The scores that a server that was started on a copy of the store gives."""
    copy = Path(shutil.copy(path, tmp_path / "asked.sqlite"))
    with closing(SQLiteStore(copy)) as store:
        opened = open_bundle(bundle)
        encoder = RequestEncoder(opened.transform, opened.layout, store)
        call = RankCall("u3", ITEMS, {**CONTEXT, "time_ms": NOW})
        return [float(score) for score in opened.score(encoder.encode(call).request)[:, 0]]


def ask(served: Served) -> Any:
    client = served.client()
    try:
        return client.rank("u3", ITEMS, context={**CONTEXT, "time_ms": NOW})
    finally:
        client.close()


def change(served: Served, number: int) -> None:
    """Changes that the running server writes to the file that it has open."""
    rows = [{"item_id": item, "price": 10_000.0 + number} for item in ITEMS]
    events = [{"user_id": "u3", "item_id": item, "time_ms": NOW - 1_000, "is_click": 1} for item in ITEMS]
    for path, body in (("items", {"rows": rows}), ("events", {"events": events})):
        assert served.admin(path, body).status == 200


def removed_and_built(old: Path, price: float) -> None:
    old.unlink()
    build(old, price)


def moved(old: Path, price: float) -> None:
    build(old.with_name("next.sqlite"), price).rename(old)


def copied(old: Path, price: float) -> None:
    shutil.copyfile(build(old.with_name("next.sqlite"), price), old)
    old.with_name("next.sqlite").unlink()


def overwritten(old: Path, price: float) -> None:
    build(old, price, overwrite=True)


def put_aside_and_built(old: Path, price: float) -> None:
    old.rename(old.with_name("aside.sqlite"))
    build(old, price)


WAYS: list[Callable[[Path, float], None]] = [removed_and_built, moved, copied, overwritten, put_aside_and_built]


def test_a_running_server_answers_from_the_store_that_was_put_in_place_and_from_nothing_else(
    bundles: tuple[Path, Path], features: Path, tmp_path: Path
) -> None:
    with Served(bundles[0], features, "--concurrency", "2") as served:
        for number, replaced in enumerate(WAYS):
            assert ask(served).status == 200
            change(served, number)
            before = content(features)
            replaced(features, 100.0 * (number + 1))
            expected = content(build(tmp_path / "expected.sqlite", 100.0 * (number + 1)))
            assert content(features)[:3] == expected[:3], replaced
            for _ in range(4):  # more than there are threads
                answer = ask(served)
                assert answer.status == 200, answer.body
                assert answer.json["scores"]["is_click"] == pytest.approx(
                    scores(bundles[0], tmp_path / "expected.sqlite", tmp_path), abs=1e-6
                ), replaced
            change(served, number)  # it writes to the new file
            assert content(features)[1] != expected[1]
            if replaced is put_aside_and_built:
                assert content(tmp_path / "aside.sqlite") == before
            (tmp_path / "expected.sqlite").unlink()
        assert served.stop() == 0
    assert content(features)[1][0][2].count("price")
    assert not list(tmp_path.glob("features.sqlite-*"))


@pytest.fixture(scope="module")
def killed(bundles: tuple[Path, Path], toy_features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store whose server was killed in the middle of a stream of changes; tests copy it."""
    folder = tmp_path_factory.mktemp("killed")
    with Served(bundles[0], Path(shutil.copy(toy_features, folder / "features.sqlite"))) as served:
        change(served, 7)
        served.stop(signal.SIGKILL)
    return folder


@pytest.mark.parametrize("replaced", WAYS)
def test_a_killed_server_leaves_nothing_that_gets_into_the_next_store(
    replaced: Callable[[Path, float], None], killed: Path, tmp_path: Path
) -> None:
    """The changes that a killed server had acknowledged are in its file, and in no other."""
    features = shutil.copytree(killed, tmp_path / "store") / "features.sqlite"
    with closing(SQLiteStore(features)) as store:
        assert {record.values["price"] for record in store.items(ITEMS).values()} == {10_007.0}
    replaced(features, 300.0)
    build(tmp_path / "expected.sqlite", 300.0)
    assert content(features)[:3] == content(tmp_path / "expected.sqlite")[:3]


_HALF = """
import sys, os, signal
from pathlib import Path
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.serving.stores.base import ANY_EVENT, Event
store = SQLiteStore(Path(sys.argv[1]))
with store._writing() as connection:
    connection.execute("PRAGMA cache_size = 5")  # so that pages of the change are in the file before its end
    store.append([Event(f"u{n}", "half", n + 1, ANY_EVENT) for n in range(20_000)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _killed_in_a_change(path: Path) -> None:
    with script(_HALF, path) as process:
        assert process.wait() == -signal.SIGKILL
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0


def test_a_link_is_followed_to_the_file_that_it_names_now(features: Path, tmp_path: Path) -> None:
    link, other = tmp_path / "current.sqlite", build(tmp_path / "other.sqlite", 5.0)
    link.symlink_to("features.sqlite")
    with closing(SQLiteStore(link)) as store:
        assert store.items(["i1"])["i1"].values["price"] != 5.0
        link.unlink()
        link.symlink_to("other.sqlite")
        assert store.items(["i1"])["i1"].values["price"] == 5.0
        build(link, 6.0, overwrite=True)
        assert store.items(["i1"])["i1"].values["price"] == 6.0
    assert link.is_symlink()
    assert content(other)[1] == content(link)[1]
    _killed_in_a_change(features)
    (tmp_path / "features.sqlite-journal").rename(tmp_path / "other.sqlite-journal")
    with pytest.raises(StoreUnavailableError, match=r"other\.sqlite-journal: holds half a change of another file"):
        SQLiteStore(link)


def test_half_a_change_of_a_killed_process_is_taken_back(features: Path) -> None:
    before = content(features)
    _killed_in_a_change(features)
    with closing(SQLiteStore(features)) as store:
        assert store.view("u5", {ANY_EVENT: 5}, NOW).events[ANY_EVENT] == []
    assert content(features) == before


def test_half_a_change_of_another_file_is_never_taken_back_from_the_one_that_has_its_name_now(
    features: Path, tmp_path: Path
) -> None:
    before = content(features)
    new = build(tmp_path / "new.sqlite", 5.0)
    expected, whole = content(new), new.read_bytes()
    _killed_in_a_change(features)
    features.rename(tmp_path / "aside.sqlite")
    with pytest.raises(StoreUnavailableError, match=r"features\.sqlite-journal: holds half a change of another file"):
        build(features, 5.0)
    new.rename(features)
    with pytest.raises(StoreUnavailableError, match="move it next to that file under the matching name"):
        SQLiteStore(features)
    assert features.read_bytes() == whole
    (tmp_path / "features.sqlite-journal").rename(tmp_path / "aside.sqlite-journal")
    assert content(features) == expected
    with closing(SQLiteStore(tmp_path / "aside.sqlite")):
        assert content(tmp_path / "aside.sqlite") == before  # and its own file is whole again


def test_a_log_of_an_earlier_version_is_neither_read_into_another_file_nor_lost(features: Path, tmp_path: Path) -> None:
    """Stores of earlier versions had write-ahead logs; one that was closed in order is taken over."""
    with closing(sqlite3.connect(features)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    new = build(tmp_path / "new.sqlite", 5.0)
    whole = new.read_bytes()
    changed = (
        "import os, signal, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('DELETE FROM items'); c.commit(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    copy = Path(shutil.copy(features, tmp_path / "old.sqlite"))
    with closing(SQLiteStore(copy)) as store:
        assert store.counts()["items"] == 30
        assert (copy.read_bytes()[18], list(tmp_path.glob("old.sqlite-*"))) == (1, [])
    with script(changed, features) as process:
        assert process.wait() == -signal.SIGKILL
    with pytest.raises(StoreUnavailableError, match=r"sqlite-wal: holds changes .*PRAGMA journal_mode = DELETE"):
        SQLiteStore(features)
    new.rename(features)
    for opened in (lambda: SQLiteStore(features), lambda: build(features, 6.0, overwrite=True)):
        with pytest.raises(
            StoreUnavailableError, match=r"features\.sqlite-wal: holds changes that may belong to another"
        ):
            opened()
    assert features.read_bytes() == whole


def test_a_change_that_another_file_overtakes_is_not_acknowledged(features: Path, tmp_path: Path) -> None:
    new = build(tmp_path / "new.sqlite", 5.0)
    with closing(SQLiteStore(features)) as store:
        with pytest.raises(StoreUnavailableError, match="another file replaced it during the write"), store._writing():
            new.rename(features)
        assert store.items(["i1"])["i1"].values["price"] == 5.0


def test_a_file_that_is_written_over_while_it_is_read_gives_no_row(features: Path, tmp_path: Path) -> None:
    new = build(tmp_path / "new.sqlite", 5.0)
    with closing(SQLiteStore(features)) as store:
        with (
            pytest.raises(StoreUnavailableError, match="the file was overwritten during the read; replace"),
            store._reading(),
        ):
            shutil.copyfile(new, features)
        assert store.items(["i1"])["i1"].values["price"] == 5.0
