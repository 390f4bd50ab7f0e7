"""Requests made from the store equal batches made from raw rows by the run itself."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from eager import EagerBundle
from tiny import tiny_recipe
from toy import DAY, START, toy_frames

from unimixer.bundles import ExportOptions, export_run, open_bundle
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.errors import UnimixerError
from unimixer.features.request import Request
from unimixer.predictor import Predictor
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.stores import sqlite as sqlite_store
from unimixer.serving.stores.base import FeatureStore
from unimixer.serving.stores.build import fill
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.training.run import RunFolder
from unimixer.training.train import train

LOG, USERS, ITEMS = toy_frames()


@pytest.fixture(scope="module")
def predictor(toy_run: RunFolder) -> Predictor:
    return Predictor(toy_run.folder, device="cpu")


@pytest.fixture
def encoder(toy_bundle: EagerBundle, toy_filled: FeatureStore) -> RequestEncoder:
    return RequestEncoder(toy_bundle.transform, toy_bundle.layout, toy_filled)


def frame_of(call: RankCall, user: str = "user_id", item: str = "item_id") -> pl.DataFrame:
    """The raw rows that a call stands for."""
    rows = [
        {**call.user_columns, **call.context, user: call.user, item: key, **(call.item_columns or [{}] * 999)[i]}
        for i, key in enumerate(call.items)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def assert_equal(encoder: RequestEncoder, predictor: Predictor, call: RankCall) -> None:
    found = encoder.encode(call).request
    batch = predictor.transform.raw_batch(Chunk(frame_of(call), "rows"))
    expected = Request.of(batch, encoder.layout)
    for part in ("user", "candidates"):
        a, b = getattr(found, part).inputs(), getattr(expected, part).inputs()
        assert list(a) == list(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True, msg=f"{part}.{name}")


def call(user: Any = "u3", items: Any = ("i3", "i4", "i5"), **changes: Any) -> RankCall:
    context = {"time_ms": START + 9 * DAY, "tab": "home", "position": 3.0, "words": "red|blue"}
    return RankCall(user, items, {**context, **changes.pop("context", {})}, **changes)


@pytest.mark.parametrize("day", [-1, 0, 5, 9])
def test_requests_equal_raw_batches_at_every_time(day: int, encoder: RequestEncoder, predictor: Predictor) -> None:
    items = [*(f"i{n}" for n in range(30)), "nothing", None]
    for user in (*(f"u{n}" for n in range(12)), None, "nobody", " u3 "):
        for hour in (0, 7, 23):
            time = START + day * DAY + hour * 3_600_000
            assert_equal(encoder, predictor, call(user, items, context={"time_ms": time}))


def test_at_the_time_of_an_event_the_event_is_not_seen(encoder: RequestEncoder, predictor: Predictor) -> None:
    for row in LOG.filter(pl.col("is_click") == 1).sample(60, seed=0).iter_rows(named=True):
        for shift in (0, 1):
            assert_equal(encoder, predictor, call(row["user_id"], context={"time_ms": row["time_ms"] + shift}))


def test_columns_that_a_call_brings_win(encoder: RequestEncoder, predictor: Predictor) -> None:
    items = [{"price": 9_000.0, "category": "c9"}, {"price": None, "category": "c1"}, {"price": 3, "category": ""}]
    pictures = [{"picture": [1.0, 2.0, 3.0, 4.5]}, {"picture": None}, {"picture": [0.0, 0.0, 1.0, 0.25]}]
    assert_equal(encoder, predictor, call(item_columns=items))
    assert_equal(encoder, predictor, call(item_columns=pictures))
    assert_equal(encoder, predictor, call(user_columns={"age": 77, "interests": ["c1", "c2", "c3"]}))
    assert_equal(encoder, predictor, call("nobody", ["new", "i1"], item_columns=[{"price": 2.5}, {"price": 4.5}]))
    assert_equal(encoder, predictor, call(item_columns=[{"position": n, "words": "old"} for n in range(3)]))


def test_a_column_that_one_item_brings_is_that_items_alone(encoder: RequestEncoder) -> None:
    plain = encoder.encode(call()).request.candidates
    one = encoder.encode(call(item_columns=[{}, {"price": 9_000.0}, {}])).request.candidates
    changed = ~torch.isclose(plain.dense_features, one.dense_features, equal_nan=True)
    assert changed.nonzero()[:, 0].tolist() == [1]
    assert torch.equal(plain.sparse_ids, one.sparse_ids)
    again = encoder.encode(call()).request.candidates
    # the kept row is untouched
    torch.testing.assert_close(again.dense_features, plain.dense_features, rtol=0, atol=0, equal_nan=True)


def test_scores_equal_those_of_the_run(encoder: RequestEncoder, predictor: Predictor, toy_bundle: EagerBundle) -> None:
    asked = call("u5", [*(f"i{n}" for n in range(30)), "never"])
    scores = toy_bundle.score(encoder.encode(asked).request)
    expected = predictor.predict(Chunk(frame_of(asked), "rows")).to_numpy()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_a_change_in_the_store_is_in_the_next_request(encoder: RequestEncoder, toy_filled: FeatureStore) -> None:
    before = encoder.encode(call())
    toy_filled.put_items("item_id", [{"item_id": "i4", "price": 77.0}])
    toy_filled.put_users("user_id", [{"user_id": "u3", "interests": ["c0"]}])
    after = encoder.encode(call())
    changed = ~torch.isclose(
        before.request.candidates.dense_features, after.request.candidates.dense_features, equal_nan=True
    )
    assert changed.nonzero()[:, 0].tolist() == [1]
    interests = (side.request.user.sequence_values["interests"].tolist() for side in (before, after))
    assert next(interests) != next(interests)
    assert after.item_revisions[1] > before.item_revisions[1]
    assert after.item_revisions[0] == before.item_revisions[0]
    assert after.user_revision > before.user_revision


def test_a_store_that_went_back_is_read_anew(
    toy_bundle: EagerBundle, features: Path, tmp_path: Path, predictor: Predictor
) -> None:
    backup = Path(shutil.copy(features, tmp_path / "backup.sqlite"))
    store = SQLiteStore(features)
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
    store.put_items("item_id", [{"item_id": "i4", "price": 77.0}])
    changed = encoder.encode(call())
    store.close()
    for rest in tmp_path.glob("features.sqlite-*"):
        rest.unlink()
    backup.rename(features)
    assert_equal(encoder, predictor, call())
    assert encoder.encode(call()).item_revisions.tolist() < changed.item_revisions.tolist()
    store.close()


def test_threads_that_read_while_rows_change_get_whole_rows(toy_bundle: EagerBundle, toy_filled: FeatureStore) -> None:
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, toy_filled)
    items = [f"i{n}" for n in range(30)]
    failures: list[BaseException] = []
    revisions: list[int] = []

    def read() -> None:
        try:
            for _ in range(60):
                found = encoder.encode(call(items=items))
                revisions.append(len(set(found.item_revisions.tolist())))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        toy_filled.put_items("item_id", [{"item_id": item, "price": float(number)} for item in items])
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(revisions) == 180
    last = encoder.encode(call(items=items))
    assert set(last.item_revisions.tolist()) == {toy_filled.view(None, {}, 0).clock}


def test_an_unknown_item_is_counted_and_known_as_soon_as_it_is_written(
    encoder: RequestEncoder, toy_filled: FeatureStore
) -> None:
    assert encoder.encode(call(items=["new", "i1"])).unknown_items == 1
    toy_filled.put_items("item_id", [{"item_id": "new", "price": 3, "category": "c1"}])
    found = encoder.encode(call(items=["new", "i1"]))
    assert found.unknown_items == 0
    assert torch.isfinite(found.request.candidates.dense_features[0, 0])


def test_a_small_cache_gives_the_tensors_of_a_large_one(
    toy_bundle: EagerBundle, toy_filled: FeatureStore, predictor: Predictor
) -> None:
    small = RequestEncoder(toy_bundle.transform, toy_bundle.layout, toy_filled, cached=14)
    rng = np.random.default_rng(0)
    for _ in range(60):
        items = [f"i{n}" for n in rng.permutation(35)[:8]]
        assert_equal(small, predictor, call(f"u{rng.integers(0, 12)}", items))
        assert max(small.cache_sizes.values()) <= 14


def test_keys_have_one_canonical_form(encoder: RequestEncoder) -> None:
    with pytest.raises(
        UnimixerError, match=r"items: 'i1' occurs at positions 0 and 2, counted from 0; send every item once"
    ):
        encoder.encode(call(items=["i1", "i2", " i1"]))
    with pytest.raises(UnimixerError, match="items: '3' occurs at positions 0 and 1"):
        encoder.encode(call(items=[3, "3.0"]))


def test_a_call_without_time_is_now(encoder: RequestEncoder, predictor: Predictor) -> None:
    now = START + 9 * DAY + 12_345
    timed = encoder.encode(call(context={"time_ms": now}))
    untimed = encoder.encode(RankCall("u3", ("i3", "i4", "i5"), {**call().context, "time_ms": None}, now=now))
    assert untimed.time == timed.time == now
    assert torch.equal(untimed.request.user.sequence_values["clicks"], timed.request.user.sequence_values["clicks"])
    assert torch.equal(untimed.request.candidates.sparse_ids, timed.request.candidates.sparse_ids)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (RankCall("u1", ["i1"], {"time_ms": START}), "context: column 'position' is missing; send it, with null"),
        (call(context={"position": "front"}), r"context, row 1: position='front' is not a number"),
        (call(context={"time_ms": "yesterday"}), r"context, row 1: time_ms='yesterday' is not a"),
        (call(context={"time_ms": 1e300}), r"context, row 1: time_ms=1e\+300 is not a time in ms"),
        (
            call(context={"time_ms": START // 1000}),
            r"context, row 1: time_ms=\d+ is the time 1970-01-20 in ms, but 2022-04-",
        ),
        (call(context={"position": 1e300}), r"context, row 1: position=1e\+300 is beyond 3.4e38"),
        (call(item_columns=[{}, {"picture": [1.0]}, {}]), "is not a vector of 4 numbers"),
        (call(item_columns=[{"price": "dear"}, {}, {}]), r"items, row 1: price='dear' is not a number"),
        (call(user_columns={"age": "old"}), r"user, row 1: age='old' is not a number"),
    ],
)
def test_what_does_not_fit_is_one_sentence(asked: RankCall, message: str, encoder: RequestEncoder) -> None:
    with pytest.raises(UnimixerError, match=message) as caught:
        encoder.encode(asked)
    assert "\n" not in str(caught.value)


def test_a_store_without_a_column_of_the_schema_is_refused(toy_bundle: EagerBundle, store: FeatureStore) -> None:
    store.put_items("item_id", [{"item_id": "i1", "prize": 3.0, "category": "c1", "picture": [1.0, 2.0, 3.0, 4.0]}])
    with pytest.raises(UnimixerError, match=r"items have no column 'price'; did you mean 'prize'\?"):
        RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)


def of_every_fifth_user(tables: RawTables) -> RawTables:
    """All impressions of these users: their histories are whole."""

    def of(chunk: Chunk) -> Chunk:
        return replace(chunk, frame=chunk.frame.filter(pl.col("user_id").cast(pl.Int64) % 5 == 0))

    assert tables.users is not None
    chunks = [of(chunk) for chunk in tables.impressions()]
    return replace(tables, impressions=lambda: iter(chunks), users=of(tables.users), reader=None, num_rows=None)


@pytest.mark.slow
@pytest.mark.skipif(
    "UNIMIXER_KUAIRAND" not in os.environ, reason="UNIMIXER_KUAIRAND names no folder with KuaiRand-Pure"
)
def test_real_impressions_get_the_scores_of_prediction(tmp_path: Path) -> None:
    tables = of_every_fifth_user(open_raw("kuairand-pure", Path(os.environ["UNIMIXER_KUAIRAND"])))
    prepare(tables, tmp_path / "store")
    run = train(tiny_recipe(tmp_path / "store", "training.max_steps=30"), folder=tmp_path / "run", quiet=True)
    predictor, bundle = Predictor(run.folder, device="cpu"), EagerBundle(run.folder)
    sqlite_store.create(tmp_path / "features.sqlite")
    store = SQLiteStore(tmp_path / "features.sqlite")
    with store.filling(overwrite=False):
        fill(store, tables)
    encoder = RequestEncoder(bundle.transform, bundle.layout, store)
    log = pl.concat(chunk.frame for chunk in tables.impressions())
    videos = tables.items.frame["video_id"].to_list() if tables.items else []
    export_run(run.folder, tmp_path / "bundle", ExportOptions(auc_rows=500, largest=100))
    exported, worst = open_bundle(tmp_path / "bundle", threads=1), 0.0
    users = log.filter(pl.col("date").cast(pl.String) >= "20220505").sample(60, seed=1)
    for number, row in enumerate(users.iter_rows(named=True)):
        rng = np.random.default_rng(number)
        items = [videos[i] for i in rng.permutation(len(videos))[:40]] + ["99999999"]
        user = row["user_id"] if number % 10 else "unseen"
        asked = RankCall(user, items, {"time_ms": row["time_ms"], "tab": row["tab"]})
        expected = predictor.scores(Chunk(frame_of(asked, item="video_id"), "rows")).to_numpy()
        request = encoder.encode(asked).request
        for scored in (bundle.score(request), exported.score(request)):
            worst = max(worst, float(np.abs(scored - expected).max()))
    store.close()
    assert worst < 1e-5
