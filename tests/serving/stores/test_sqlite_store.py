"""A store in a file that is locked, full, damaged, gone or write-protected, and what is said then."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from own_process import script
from sqlite_cases import build, content

from unimixer.errors import UnimixerError
from unimixer.serving.stores.base import ANY_EVENT, Event, StoreUnavailableError
from unimixer.serving.stores.build import building
from unimixer.serving.stores.sqlite import SQLiteStore


def test_a_view_is_of_one_moment(features: Path) -> None:
    """A writer changes the user and adds an event in one transaction; a view never sees one without the other."""
    writer, reader = SQLiteStore(features), SQLiteStore(features)
    torn: list[tuple[int, int]] = []
    stop = threading.Event()

    def write() -> None:
        for number in range(1, 300):
            with writer._writing():
                writer.put_users("user_id", [{"user_id": "u3", "age": number}])
                writer.append([Event("u3", f"i{number}", number, "mark")])
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not stop.is_set():
        view = reader.view("u3", {"mark": 1}, 10_000)
        assert view.user is not None
        if view.events["mark"]:
            age, item = view.user.values["age"], view.events["mark"][0]
            torn += [(age, view.clock)] if f"i{age}" != item or view.user.revision != view.clock else []
    thread.join()
    reader.close()
    writer.close()
    assert torn == []


@pytest.fixture
def locked(features: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(features, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other


def test_a_locked_store_is_waited_for_as_long_as_it_was_told(features: Path, locked: sqlite3.Connection) -> None:
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"another process is writing to it or has locked it"):
        SQLiteStore(features, timeout=0.2)
    assert 0.15 < time.monotonic() - started < 1.0
    locked.execute("ROLLBACK")
    with closing(SQLiteStore(features, timeout=0.2)) as store:
        locked.execute("BEGIN IMMEDIATE")  # one that writes keeps no reader waiting
        assert store.users("u3") is not None
        with pytest.raises(StoreUnavailableError, match="another process is writing"):
            store.put_users("user_id", [{"user_id": "u3", "age": 1}])


def test_a_full_disk_writes_nothing(features: Path) -> None:
    before = content(features)
    with closing(SQLiteStore(features)) as store:
        with store._using() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnavailableError, match="the disk is full; nothing was written"):
            store.append_events([Event(f"u{n}", "i1", n, ANY_EVENT) for n in range(1, 20_000)])
        assert content(features) == before
        store.append_events([Event("u3", "i1", 5, ANY_EVENT)])
        assert store.counts()["events"] == len(before[2]) + 1


def test_a_damaged_page_is_one_sentence(features: Path) -> None:
    data = bytearray(features.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    data[page:] = os.urandom(len(data) - page)
    features.write_bytes(data)
    with pytest.raises(StoreUnavailableError, match="the file is damaged; build the store again"):
        SQLiteStore(features)


def test_a_store_that_is_gone_is_not_made_anew(features: Path) -> None:
    with closing(SQLiteStore(features)) as store:
        features.unlink()
        for use in (lambda: store.users("u3"), lambda: store.append([Event("u", "i", 5, ANY_EVENT)])):
            with pytest.raises(StoreUnavailableError, match=r"cannot be used now \(No such file or directory\)"):
                use()
        assert not features.exists()


_READ_ONLY = """
import os, sys
from pathlib import Path
from unimixer.serving.stores.sqlite import SQLiteStore
if os.getuid() == 0:
    os.setuid(65534)  # whom permissions bind
store = SQLiteStore(Path(sys.argv[1]))
store.expect({"is_click": 5})
print(store.users("u3").values["user_id"])
try:
    store.put_users("user_id", [{"user_id": "u3"}])
except Exception as error:
    print(error)
"""


def test_what_a_server_only_reads_may_be_write_protected(toy_features: Path) -> None:
    with TemporaryDirectory() as folder:
        path = Path(shutil.copy(toy_features, folder))
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        said = script(_READ_ONLY, path).communicate()[0].splitlines()
        Path(folder).chmod(0o755)
    assert said == ["u3", f"{path}: the feature store cannot be used now (the file is read-only)"]


def test_a_build_replaces_only_a_store_and_only_when_told(features: Path, tmp_path: Path) -> None:
    whole = features.read_bytes()
    with pytest.raises(UnimixerError, match="exists; choose another file, or pass --overwrite to replace it"):
        build(features, 1.0)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UnimixerError, match=r"rows\.csv is not a feature store, so it is not replaced"):
        build(tmp_path / "rows.csv", 1.0, overwrite=True)
    with pytest.raises(ZeroDivisionError), building(str(features), overwrite=True):
        raise ZeroDivisionError
    assert features.read_bytes() == whole
    features.write_bytes(whole[:5_000])  # one that is damaged is replaced
    build(features, 4.0, overwrite=True)
    assert content(features)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.sqlite", "rows.csv"]
