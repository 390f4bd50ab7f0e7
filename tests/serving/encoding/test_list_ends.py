"""The end of a list that a schema keeps is the same in training, in prediction and in serving."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from toy import DAY, SCHEMA, START, toy_frames, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.layout import request_layout
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.data.raw.tables import Chunk
from unimixer.features.batch import Batch
from unimixer.features.request import Request
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.stores import open_store

WORDS, INTERESTS = "red|red|green|blue", toy_frames()[1]["interests"].to_list()[3]


def schema_that_keeps(end: str) -> dict[str, Any]:
    features = [{**f, "keep": end} if f["name"] in ("words", "interests") else f for f in SCHEMA["features"]]
    return {"features": features}


@pytest.fixture(scope="module", params=["first", "last"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("stores") / "toy"
    prepare(toy_tables(400, **schema_that_keeps(request.param)), folder)
    return Dataset(folder)


def lists(dataset: Dataset, batch: Batch, name: str) -> list[list[int]]:
    offsets = batch.sequence_offsets[name].tolist()
    return [batch.sequence_values[name][start:stop, 0].tolist() for start, stop in pairwise(offsets)]


def expected(dataset: Dataset, name: str, values: list[str]) -> list[int]:
    """The rows of the values that the schema keeps."""
    (feature,) = (f for f in dataset.transform.schema.features if f.name == name)
    kept = values[: feature.max_length] if feature.keep == "first" else values[-feature.max_length :]
    return dataset.transform.vocabularies[feature.table_name].lookup(pl.Series(kept)).tolist()


def test_training_prediction_and_serving_keep_the_same_end(dataset: Dataset, features: Path) -> None:
    assert len(INTERESTS) == 3  # one more than max_length
    context = {"time_ms": START + 9 * DAY, "tab": "home", "position": 3.0, "words": WORDS}
    frame = pl.DataFrame([{"user_id": "u3", "item_id": item, **context} for item in ("i3", "i4")])
    predicted = dataset.transform.raw_batch(Chunk(frame, "rows"))
    words, interests = expected(dataset, "words", WORDS.split("|")), expected(dataset, "interests", INTERESTS)
    assert lists(dataset, predicted, "words") == [words] * 2
    assert lists(dataset, predicted, "interests") == [interests] * 2
    trained = next(Loader(dataset, "train", batch_size=200).batches())
    assert words in lists(dataset, trained, "words")
    assert interests in lists(dataset, trained, "interests")
    store, layout = open_store(str(features)), request_layout(dataset.transform.schema)
    asked = RequestEncoder(dataset.transform, layout, store).encode(RankCall("u3", ("i3", "i4"), context)).request
    sides = Request.of(predicted, layout)
    for served, batch, name in ((asked.user, sides.user, "interests"), (asked.candidates, sides.candidates, "words")):
        assert torch.equal(served.sequence_values[name], batch.sequence_values[name])
        assert torch.equal(served.sequence_offsets[name], batch.sequence_offsets[name])
    store.close()
