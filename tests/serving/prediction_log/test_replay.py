"""The prediction log, and its answers computed again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eager import EagerBundle
from toy import DAY, START

from unimixer.cli import main
from unimixer.features.request import Request
from unimixer.serving.encoding.feature_hashes import field_hashes
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.prediction_log.replay import EagerScorer, replay
from unimixer.serving.prediction_log.writer import PredictionLog, PredictionRecord, open_sink, read_log
from unimixer.serving.stores.base import ANY_EVENT, Event
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.training.run import RunFolder

CONTEXT = {"tab": "home", "position": 3.0, "words": "red|blue"}
CALLS = [
    RankCall("u3", ["i1", "i2", "i3"], CONTEXT, now=START + 9 * DAY),
    RankCall("u5", ["i4", 77], {**CONTEXT, "time_ms": START + 8 * DAY}, {"age": 3}, [{"price": 2.5}, {}], now=1),
    RankCall(None, [None, "i9"], CONTEXT, item_columns=[{"picture": [1.0, 2.0, 3.0, 4.0]}, {}], now=START + DAY),
    RankCall("nobody", ["i4"], CONTEXT, now=START + 9 * DAY),
]


def answered(call: RankCall, encoder: RequestEncoder, bundle: EagerBundle, number: int = 0) -> PredictionRecord:
    encoded = encoder.encode(call)
    return PredictionRecord(
        request_id=f"r{number}",
        answered_ms=int(time.time() * 1000),
        time_ms=encoded.time,
        model_version=bundle.version,
        user=encoded.user,
        user_revision=encoded.user_revision,
        call=call,
        items=encoded.items,
        item_revisions=encoded.item_revisions,
        tasks=bundle.tasks,
        scores=bundle.score(encoded.request),
        hashes=field_hashes(encoded.request, bundle.transform),
    )


@pytest.fixture
def store(features: Path) -> Any:
    opened = SQLiteStore(features)
    yield opened
    opened.close()


@pytest.fixture(params=["folder", "database"])
def log(request: pytest.FixtureRequest, store: SQLiteStore, toy_bundle: EagerBundle, tmp_path: Path) -> str:
    """A prediction log of four answers in two writes, of either form."""
    place = str(tmp_path / "log") if request.param == "folder" else request.getfixturevalue("log_address")
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
    written = PredictionLog(open_sink(place), flush=60, max_rows=100)
    for number, call in enumerate(CALLS):
        written.add(answered(call, encoder, toy_bundle, number))
        if number == 1:
            written.flush()
    written.close()
    return str(place)


def test_the_log_holds_what_was_answered(log: str, toy_bundle: EagerBundle, store: SQLiteStore) -> None:
    rows = list(read_log(log))
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r2", "r3"]
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
    expected = toy_bundle.score(encoder.encode(CALLS[1]).request)
    assert rows[1]["items"] == ["i4", "77"]
    np.testing.assert_array_equal(np.asarray(rows[1]["scores"], dtype=np.float32), expected.T)
    assert rows[1]["user"] == "u5"
    assert rows[1]["call"]["user_columns"] == {"age": 3}
    assert rows[3]["user_revision"] == 0


def test_a_replay_of_an_unchanged_store_has_equal_scores_and_features(
    log: str, store: SQLiteStore, toy_run: RunFolder, toy_bundle: EagerBundle
) -> None:
    for scorer in (toy_bundle, EagerScorer(toy_run.folder)):
        found = replay(log, store, scorer)
        assert (found.requests, found.rows) == (4, 16)
        assert found.largest < 1e-6
        assert (found.differing_rows, found.features, found.differences) == (0, {}, [])
    assert replay(log, store, toy_bundle, version="another").skipped == 4


def test_what_changed_is_named_by_row_and_feature(log: str, store: SQLiteStore, toy_bundle: EagerBundle) -> None:
    store.put_items("item_id", [{"item_id": "i2", "price": 88_000.0}])
    found = replay(log, store, toy_bundle, tolerance=1e-7)
    assert found.features == {"price": 1}
    assert {(d.request_id, d.item, d.changed, d.features) for d in found.differences} == {
        ("r0", "i2", "item", ("price",))
    }
    store.append_events([Event("u5", "i9", START + 8 * DAY - 1, "is_click"), Event("u5", "i9", START, ANY_EVENT)])
    assert replay(log, store, toy_bundle).features == {"price": 1, "clicked_items": 1, "clicked_categories": 1}


def test_the_command_lists_differences_and_ends_with_1(
    log: str, store: SQLiteStore, toy_run: RunFolder, bundles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(["replay", log, "--store", str(store.path), *options])
        return ended.value.code, capsys.readouterr().out

    assert run("--run", str(toy_run.folder))[0] == 0
    code, out = run("--bundle", str(bundles[1]), "--json")
    assert (code, json.loads(out)["skipped"]) == (0, 4)
    store.put_items("item_id", [{"item_id": "i2", "price": 88_000.0}])
    code, out = run("--run", str(toy_run.folder), "--tolerance", "1e-7")
    assert code == 1
    assert "price" in out
    assert "r0" in out
    assert main_error(capsys, log, store) == "error: compare with one model: give either --run or --bundle\n"


def main_error(capsys: pytest.CaptureFixture[str], log: str, store: SQLiteStore) -> str:
    with pytest.raises(SystemExit):
        main(["replay", log, "--store", str(store.path)])
    return capsys.readouterr().err


def test_equal_values_have_equal_hashes_and_others_have_not(toy_bundle: EagerBundle, store: SQLiteStore) -> None:
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
    request = encoder.encode(RankCall("u7", ["i1", "i2", "i3"], CONTEXT, now=START + 9 * DAY)).request
    before = field_hashes(request, toy_bundle.transform)
    assert set(before) == {feature.name for feature in toy_bundle.transform.schema.features}
    assert field_hashes(request, toy_bundle.transform) == before
    turned = Request(request.user, request.candidates.map(lambda tensor: tensor))
    turned.candidates.sparse_ids[:, 0] = turned.candidates.sparse_ids[:, 0].flip(0)
    after = field_hashes(turned, toy_bundle.transform)
    assert {name for name in before if before[name] != after[name]} == {"item_id"}


def test_sequences_cut_elsewhere_have_other_hashes(toy_bundle: EagerBundle, store: SQLiteStore) -> None:
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
    request = encoder.encode(RankCall("u7", ["i1", "i2"], CONTEXT, now=START + 9 * DAY)).request
    before = field_hashes(request, toy_bundle.transform)["words"]
    offsets = request.candidates.sequence_offsets["words"]
    assert offsets.tolist() == [0, 2, 4]
    request.candidates.sequence_offsets["words"] = torch.tensor([0, 1, 4])
    assert field_hashes(request, toy_bundle.transform)["words"] != before
