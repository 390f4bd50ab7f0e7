"""Counts of requests: looked up by the keys and the context, equal to those of rows to predict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from export_cases import exported
from served import Served
from toy import COUNTS, DAY, START, counting, day_tables

from unimixer.bundles import ExportOptions, open_bundle
from unimixer.bundles import write as bundle_writer
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.stores import open_store
from unimixer.serving.stores import sqlite as sqlite_store
from unimixer.serving.stores.base import FeatureStore
from unimixer.serving.stores.build import fill
from unimixer.training.run import RunFolder

CONTEXT = {"time_ms": START + 6 * DAY, "tab": "home", "position": 3.0, "words": "red|blue"}
ITEMS = [*(f"i{number}" for number in range(1, 12)), "new"]


@pytest.fixture(scope="module")
def bundle(counting_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counting-bundle") / "bundle"
    exported(counting_run.folder, folder, ExportOptions(auc_rows=50, largest=16))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counting-store") / "features.sqlite"
    sqlite_store.create(path)
    opened = open_store(str(path))
    with opened.filling(overwrite=False):
        fill(opened, day_tables(*range(4), **counting()))
    opened.close()
    return path


@pytest.fixture
def encoder(bundle: Path, store: Path) -> Iterator[RequestEncoder]:
    opened, features = open_bundle(bundle), open_store(str(store))
    yield RequestEncoder(opened.transform, opened.layout, features)
    features.close()


def rows_of(user: Any, **columns: Any) -> pl.DataFrame:
    """The rows of a request."""
    row = {"user_id": user, **CONTEXT, **columns}
    return pl.DataFrame({"item_id": ITEMS, **{name: [value] * len(ITEMS) for name, value in row.items()}})


def given(predictor: Predictor, rows: pl.DataFrame) -> list[list[float]]:
    """The counts of rows to predict."""
    (chunk,) = predictor.chunks(rows)
    counts: list[list[float]] = chunk.frame.select(c.name for c in COUNTS).cast(pl.Float32).to_numpy().tolist()
    return counts


def scores_of(predictor: Predictor, rows: pl.DataFrame) -> pl.DataFrame:
    """What a prediction of the rows gives, without warnings of unknown users."""
    return pl.concat([predictor.scores(chunk) for chunk in predictor.chunks(rows)])


@pytest.mark.parametrize("user", ["u3", "nobody"])
def test_scores_over_http_are_those_of_predict(user: str, served: Served, counting_run: RunFolder) -> None:
    predictor = Predictor(counting_run.folder)
    client = served.client()
    for context in (CONTEXT, {**CONTEXT, "tab": "feed"}, {**CONTEXT, "tab": ""}):
        answer = client.ask("POST", "/v1/rank", {"user": user, "context": context, "items": ITEMS}).json
        expected = scores_of(predictor, rows_of(user, tab=context["tab"]))
        for task in expected.columns:
            np.testing.assert_allclose(answer["scores"][task], expected[task], atol=1e-6)
    brought = {**CONTEXT, "seen": 5, "clicked_in_tab": 2, "long_in_tab": 9, "click_rate": 0.5}
    answer = client.ask("POST", "/v1/rank", {"user": user, "context": brought, "items": ITEMS}).json
    expected = scores_of(predictor, rows_of(user, **{count.name: brought[count.name] for count in COUNTS}))
    np.testing.assert_allclose(answer["scores"]["is_click"], expected["is_click"], atol=1e-6)
    client.close()


@pytest.fixture(scope="module")
def served(bundle: Path, store: Path) -> Iterator[Served]:
    with Served(bundle, store) as server:
        yield server.ready()


def test_a_request_gets_the_counts_of_rows_to_predict(encoder: RequestEncoder, counting_run: RunFolder) -> None:
    predictor = Predictor(counting_run.folder)
    for user in ("u3", "nobody", None):
        dense = encoder.encode(RankCall(user, ITEMS, CONTEXT)).request.candidates.dense_features
        assert dense[:, -4:].tolist() == given(predictor, rows_of(user))
    assert len({row[3] for row in given(predictor, rows_of("u3"))}) > 3


def test_columns_of_the_call_win(encoder: RequestEncoder, counting_run: RunFolder) -> None:
    predictor = Predictor(counting_run.folder)
    columns: list[dict[str, Any]] = [{"category": "c2"} if item == "new" else {} for item in ITEMS]
    dense = encoder.encode(RankCall("u3", ITEMS, CONTEXT, item_columns=columns)).request.candidates.dense_features
    rows = rows_of("u3").with_columns(category=pl.Series([*(f"c{n % 5}" for n in range(1, 12)), "c2"]))
    assert dense[:, -4:].tolist() == given(predictor, rows)
    own = [{"seen": number} for number in range(len(ITEMS))]
    dense = encoder.encode(RankCall("u3", ITEMS, CONTEXT, item_columns=own)).request.candidates.dense_features
    assert dense[:, -4].tolist() == list(range(len(ITEMS)))
    assert dense[:, -3:].tolist() == [row[1:] for row in given(predictor, rows_of("u3"))]
    without = {name: value for name, value in CONTEXT.items() if name != "tab"}
    with pytest.raises(UnimixerError, match="context: column 'tab' is missing; send it"):
        encoder.encode(RankCall("u3", ITEMS, without))


def test_a_bundle_without_the_end_of_the_log_needs_the_counts(
    bundle: Path, encoder: RequestEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_bundle(bundle)
    store: FeatureStore = encoder.store
    plain = RequestEncoder(replace(opened.transform, read_log_end=None), opened.layout, store)
    assert "seen" in plain.context.columns
    with pytest.raises(UnimixerError, match="context: column 'click_rate' is missing; send it"):
        plain.encode(RankCall("u3", ITEMS, CONTEXT))
    monkeypatch.setattr(bundle_writer, "MOST_GROUPS", 3)
    assert bundle_writer._with_few_groups(opened.transform).log_end is None
    assert (
        "groups and a bundle carries at most 3, so it is written without them; requests bring"
        in capsys.readouterr().err
    )
