"""Many workers: the dataset is the same, the first mistake is the first in the log, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import SCHEMA, FrameLog, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data import write_dataset
from unimixer.data.encoding.fit import fit
from unimixer.data.encoding.layout import resolve
from unimixer.data.encoding.splits import Sample
from unimixer.data.encoding.statistics import Statistics
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.passes import Collection, LogReader
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.write_dataset import Encode, encode, runs
from unimixer.errors import UnimixerError
from unimixer.workers.ray import executor_on

QUANTILE = {"by": "quantile", "validation": 0.7, "test": 0.85}
RANDOM = {"by": "random", "validation": 0.2, "test": 0.2}


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def own(folder: Path, kind: str) -> RawTables:
    """The small world as files: a log in five files, so of five pieces."""
    folder.mkdir()
    log, users, items = toy_frames(3_000)
    if kind == "csv":
        lists = {name: pl.col(name).list.join("|") for name in ("interests", "past_items")}
        users, items = users.with_columns(**lists), items.drop("picture")
    frames = {f"impressions-{n}": log.slice(700 * n, 700) for n in range(5)} | {"users": users, "items": items}
    for name, frame in frames.items():
        if kind == "csv":
            frame.write_csv(folder / f"{name}.csv")
        else:
            frame.write_parquet(folder / f"{name}.parquet", row_group_size=130)
    features = [{**f, "separator": "|"} if f["name"] == "interests" else f for f in SCHEMA["features"]]
    histories = [{**SCHEMA["histories"][0], "separator": "|"}]
    schema = {**SCHEMA, "split": QUANTILE}
    if kind == "csv":
        schema |= {"features": [f for f in features if f["name"] != "picture"], "histories": histories}
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    return open_raw(str(folder / "schema.yaml"), folder)


# ---- the same dataset ----------------------------------------------------------


def test_any_number_of_processes_makes_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("unimixer.data.prepare"), "executor_on", executor_on)
    monkeypatch.setattr(write_dataset, "PART_ROWS", 100)  # parts that lie in one share and parts that several share
    for workers in (1, 2, 3):
        tables = toy_tables(1_000, chunk_rows=37, split=QUANTILE)
        assert prepare(tables, tmp_path / str(workers), workers=workers).hash
    first, second, third = (contents(tmp_path / str(workers)) for workers in (1, 2, 3))
    assert first == second == third
    assert len([name for name in first if name.startswith("train/")]) > 3
    assert not [name for name in first if ".work" in name]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(write_dataset, "PART_ROWS", 256)
    tables = own(tmp_path / "raw", kind)
    assert len({placed.piece for placed in tables.pieces()}) == 5
    for workers in (1, 2):
        prepare(tables, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.skipif(
    "UNIMIXER_KUAIRAND" not in os.environ, reason="UNIMIXER_KUAIRAND names no folder with KuaiRand-Pure"
)
def test_two_workers_make_the_same_dataset_of_the_real_data(tmp_path: Path) -> None:
    tables = open_raw("kuairand-pure", Path(os.environ["UNIMIXER_KUAIRAND"]))
    first, second = (prepare(tables, tmp_path / str(workers), workers=workers).hash for workers in (1, 2))
    assert first == second


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'unimixer[sweep]'")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_makes_the_same_dataset_and_names_the_same_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's default, 15, starves them on a busy machine
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the log's functions are those of a test module
    tables = toy_tables(1_000, chunk_rows=37, split=QUANTILE)
    alone, cluster = prepare(tables, tmp_path / "1"), prepare(tables, tmp_path / "2", workers=2, ray="local")
    assert contents(alone.folder) == contents(cluster.folder)
    with pytest.raises(UnimixerError, match=r"log\.csv, row 151: is_click='2' is not 0 or 1"):
        prepare(broken({150: "2", 270: "3"}), tmp_path / "3", workers=2, ray="local")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


# ---- merging -----------------------------------------------------------------


class Grouped(LogReader):
    """Shares one after the other in this process; every group of them is merged on its own first."""

    def __init__(self, tables: RawTables, workers: int, groups: list[int]) -> None:
        super().__init__(tables)
        self.workers, self.groups = workers, groups

    def run(self, log_pass: Any, shards: Any = None) -> list[Any]:
        results = super().run(log_pass, shards)
        if not isinstance(results[0], Statistics):
            return results
        merged = [[r for r, g in zip(results, self.groups, strict=False) if g == group] for group in (2, 0, 1)]
        return [Statistics.merge(group) for group in merged if group]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 6), st.lists(st.integers(0, 2), min_size=6, max_size=6), st.sampled_from([SCHEMA["split"], RANDOM])
)
def test_merging_in_any_grouping_gives_the_same_fit(workers: int, groups: list[int], split: dict[str, Any]) -> None:
    tables = toy_tables(600, chunk_rows=41, split=split)
    schema = resolve(tables)
    alone, grouped = fit(schema, LogReader(tables)), fit(schema, Grouped(tables, workers, groups))
    assert alone.splitter == grouped.splitter
    assert {piece: rows.tolist() for piece, rows in alone.rows.items()} == {
        piece: rows.tolist() for piece, rows in grouped.rows.items()
    }
    for name, vocabulary in alone.transform.vocabularies.items():
        assert vocabulary.texts.to_list() == grouped.transform.vocabularies[name].texts.to_list()
    assert alone.transform.numerics == grouped.transform.numerics
    assert alone.transform.users.index.keys.to_list() == grouped.transform.users.index.keys.to_list()
    assert alone.transform.items.index.keys.to_list() == grouped.transform.items.index.keys.to_list()
    for name, history in alone.transform.histories.items():
        other_history = grouped.transform.histories[name]
        np.testing.assert_array_equal(history.items.values, other_history.items.values)
        np.testing.assert_array_equal(history.items.offsets, other_history.items.offsets)
        np.testing.assert_array_equal(history.times.values, other_history.times.values)


def test_keys_without_tables_come_in_the_order_of_the_log() -> None:
    log, _, _ = toy_frames(600)
    features = [
        {"name": name, "kind": "categorical", "domain": domain}
        for name, domain in (("user_id", "user"), ("item_id", "item"))
    ]
    tables = tables_of(
        toy_schema(features=features, histories=[{"name": "clicks", "event": "is_click"}]), log, chunk_rows=7
    )
    fitted = fit(resolve(tables), Grouped(tables, 5, [0, 2, 1, 0, 2, 1])).transform
    for column, table in (("user_id", fitted.users), ("item_id", fitted.items)):
        assert table.index.keys.to_list() == log[column].unique(maintain_order=True).to_list()


@given(st.lists(st.integers(0, 3), min_size=200, max_size=200), st.integers(1, 250))
@settings(deadline=None, max_examples=50)
def test_samples_of_parts_merge_to_the_sample_of_the_whole(owners: list[int], size: int) -> None:
    values, owner = np.arange(200) * 0.5, np.array(owners)
    whole, parts = Sample(3, size), [Sample(3, size) for _ in range(4)]
    whole.add(values, np.arange(200))
    for n, part in enumerate(parts):
        rows = np.flatnonzero(owner == n)
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            part.add(values[half], half)
    left = Sample.merge([Sample.merge([parts[3], parts[1]]), parts[0], parts[2]])
    assert left.values.tolist() == whole.values.tolist()
    assert len(left.values) == min(size, 200)


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 500), min_size=1), st.integers(1, 8))
def test_runs_cover_every_piece_once_in_order(rows: dict[int, int], workers: int) -> None:
    cut = runs({piece: np.array([count, 0, 0]) for piece, count in rows.items()}, workers)
    assert 1 <= len(cut) <= workers
    assert cut[0].start == 0
    assert [piece for run in cut for piece in run] == list(range(max(rows) + 1))


def test_parts_are_the_same_for_any_cut_and_part_size(tmp_path: Path) -> None:
    tables = toy_tables(500, chunk_rows=23, split=RANDOM)
    fitted = fit(resolve(tables), LogReader(tables))
    for part_rows in (1, 50, 1_000):
        seen = []
        for workers in (1, 4, 9):
            folder = tmp_path / f"{part_rows}-{workers}"
            folder.mkdir()
            fitted.transform.save(folder / "transform")
            reader = LogReader(tables)
            reader.workers = workers
            summaries = encode(reader, Encode(folder, fitted.splitter, fitted.rows, part_rows))
            seen.append((summaries, contents(folder)))
        assert seen[0] == seen[1] == seen[2]


# ---- mistakes ----------------------------------------------------------------


def broken(values: dict[int, str], column: str = "is_click") -> RawTables:
    log, users, items = toy_frames(300)
    texts = log[column].cast(pl.String).to_list()
    for row, value in values.items():
        texts[row] = value
    return tables_of(toy_schema(), log.with_columns(pl.Series(column, texts)), users, items, chunk_rows=30)


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [("is_click", {150: "2", 270: "2"}, 151), ("watch_s", {285: "x", 225: "x", 250: "y"}, 226)],
    ids=["first pass", "second pass"],
)
def test_the_first_wrong_row_of_the_log_is_named(tmp_path: Path, column: str, values: dict[int, str], row: int) -> None:
    """Wrong rows in the shares of both workers."""
    for workers in (1, 2):
        with pytest.raises(UnimixerError, match=rf"log\.csv, row {row}: {column}="):
            prepare(broken(values, column), tmp_path / "store", workers=workers)
        assert list(tmp_path.iterdir()) == []


def test_an_error_waits_for_those_who_could_meet_an_earlier_one() -> None:
    collection = Collection(3, lambda rows, note="": None)
    collection.advance_to(0, (10, 50))
    collection.end(1, (40, UnimixerError("later")))
    assert collection.open == [2]  # worker 0 is past row 40
    collection.end(2, (20, UnimixerError("earlier")))
    assert collection.open == []
    with pytest.raises(UnimixerError, match="earlier"):
        collection.results(Path())


@dataclass(frozen=True)
class Deadly:
    """A log that kills the worker which comes to its third chunk, or makes it wait."""

    log: FrameLog
    parent: int
    waits: bool = False

    def __call__(self) -> Iterator[Chunk]:
        for number, chunk in enumerate(self.log()):
            if number == 2 and os.getpid() != self.parent:
                if self.waits:
                    time.sleep(600)
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk


def deadly(*, waits: bool = False) -> RawTables:
    tables = toy_tables(300, chunk_rows=30)
    assert isinstance(tables.impressions, FrameLog)
    return replace(tables, impressions=Deadly(tables.impressions, os.getpid(), waits))


def test_a_killed_worker_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError) as error:
        prepare(deadly(), tmp_path / "store", workers=2)
    assert str(error.value) == (
        "a worker of the preparation was killed by SIGKILL, perhaps by the system for want of memory; nothing "
        "half-written was left: prepare again, with fewer --workers where memory was short"
    )
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import sys
sys.path[:0] = sys.argv[1:3]
from test_passes import deadly, prepare
if __name__ == "__main__":
    print("begun", flush=True)
    prepare(deadly(waits=True), sys.argv[3], workers=2)
"""


def test_ctrl_c_ends_all_processes_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    here = Path(__file__).parent
    command = [sys.executable, str(script), str(here), str(here.parents[1]), str(tmp_path / "out" / "store")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        end = time.monotonic() + 120
        while not list(tmp_path.rglob("tables.pickle")) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody gets it
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1
    assert "KeyboardInterrupt" in errors
    assert list((tmp_path / "out").iterdir()) == []
    # what watches the processes for Python ends a moment after them
    end = time.monotonic() + 10
    while _alive(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _alive(process.pid)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_tables_that_cannot_travel_are_told_so(tmp_path: Path) -> None:
    tables = toy_tables(300)
    with pytest.raises(UnimixerError, match="toy: these tables cannot be handed to other processes"):
        prepare(replace(tables, impressions=_closure(tables)), tmp_path / "store", workers=2)
    assert list(tmp_path.iterdir()) == []


def _closure(tables: RawTables) -> Any:
    return lambda: tables.impressions()


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="workers=0 must be greater than 0"):
        prepare(toy_tables(300), tmp_path / "store", workers=0)
