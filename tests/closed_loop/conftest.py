"""A run on a small synthetic world, for arms that are trained models."""

from __future__ import annotations

import pytest
from tiny import tiny_recipe

from unimixer.api import prepare
from unimixer.training.run import RunFolder
from unimixer.training.train import train

USERS = 60


@pytest.fixture(scope="session")
def world_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run on a small synthetic world; tests must not change it."""
    folder = tmp_path_factory.mktemp("world")
    prepare("synthetic", folder / "dataset", rows=3_000, users=USERS, items=80)
    return train(tiny_recipe(folder / "dataset"), folder=folder / "run", quiet=True)
