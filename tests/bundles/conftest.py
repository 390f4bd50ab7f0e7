"""A small world of few features, for models whose features are not the subject."""

from __future__ import annotations

from typing import Any

import pytest
from toy import SCHEMA, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare

FEW = ("user_id", "item_id", "price", "tab")
WITH_HISTORIES = ("user_id", "age", "item_id", "category", "price", "clicked_items", "clicked_categories", "tab")


@pytest.fixture(scope="session")
def few_features(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The small world with four features: a graph of it is half as long; tests must not change it."""
    return _world(tmp_path_factory, FEW, histories=[])


@pytest.fixture(scope="session")
def few_with_histories(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The small world with eight features, two of them histories; tests must not change it."""
    return _world(tmp_path_factory, WITH_HISTORIES)


def _world(factory: pytest.TempPathFactory, names: tuple[str, ...], **schema: Any) -> Dataset:
    features = [feature for feature in SCHEMA["features"] if feature["name"] in names]
    return prepare(toy_tables(features=features, **schema), factory.mktemp("few") / "features")
