"""A small world of few features, for models whose features are not the subject."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from toy import SCHEMA, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare


@pytest.fixture(scope="session", autouse=True)
def _one_table_of_operators() -> Iterator[None]:
    """Conversions to ONNX only read this table, and making it is an eighth of one."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


FEW = ("user_id", "age", "interests", "item_id", "price", "tab")


@pytest.fixture(scope="session")
def few_features(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The small world with six features: a graph of it is half as long; tests must not change it."""
    folder = tmp_path_factory.mktemp("few") / "features"
    features = [feature for feature in SCHEMA["features"] if feature["name"] in FEW]
    prepare(toy_tables(features=features, histories=[]), folder)
    return Dataset(folder)
