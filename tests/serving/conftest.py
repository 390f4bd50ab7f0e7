"""Stores and bundles that the tests of serving share."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from built_once import built_once
from database import Database, started
from eager import EagerBundle
from export_cases import exported
from ports import free_port
from served import Client, Served
from toy import toy_tables

from unimixer.bundles import ExportOptions
from unimixer.serving.stores import open_store
from unimixer.serving.stores import redis as redis_store
from unimixer.serving.stores import sqlite as sqlite_store
from unimixer.serving.stores.base import FeatureStore
from unimixer.serving.stores.build import fill
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.training.run import RunFolder


@pytest.fixture(scope="session")
def toy_bundle(toy_run: RunFolder) -> EagerBundle:
    return EagerBundle(toy_run.folder)


@pytest.fixture(scope="session")
def toy_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small world; tests copy it."""
    path = tmp_path_factory.mktemp("features") / "toy.sqlite"
    sqlite_store.create(path)
    store = SQLiteStore(path)
    with store.filling(overwrite=False):
        fill(store, toy_tables())
    store.close()
    return path


@pytest.fixture
def features(toy_features: Path, tmp_path: Path) -> Path:
    """A store of the small world that a test may change."""
    return Path(shutil.copy(toy_features, tmp_path / "features.sqlite"))


@pytest.fixture(scope="session")
def bundles(toy_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of one run whose scores differ: as it is, and with hardened mixings."""

    def export(folder: Path) -> None:
        exported(toy_run.folder, folder / "a", ExportOptions(auc_rows=200, largest=64))
        exported(toy_run.folder, folder / "b", ExportOptions(auc_rows=200, largest=64, harden="permutation"))

    folder = built_once(tmp_path_factory, "bundles", export)
    return folder / "a", folder / "b"


@pytest.fixture(scope="session")
def shared(bundles: tuple[Path, Path], toy_features: Path) -> Iterator[Served]:
    """A server that tests only ask."""
    with Served(bundles[0], toy_features, "--max-candidates", "100", "--max-body", "100000", "--cached", "1000") as s:
        yield s


@pytest.fixture
def client(shared: Served) -> Iterator[Client]:
    """A connection to that server."""
    client = shared.client()
    yield client
    client.close()


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a free port; tests choose a prefix of their own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def shared_database() -> Iterator[Database]:
    """A real PostgreSQL that tests share; each has tables of its own."""
    yield from started()


@pytest.fixture
def database() -> Iterator[Database]:
    """A real PostgreSQL that a test may stop."""
    yield from started()


@pytest.fixture
def log_address(shared_database: Database) -> str:
    """Address of a table that does not exist yet."""
    return shared_database.address(f"log_{uuid.uuid4().hex}")


@pytest.fixture(params=["parquet", "postgresql"])
def log_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of a prediction log of either kind, with nothing in it yet."""
    return str(tmp_path / "log") if request.param == "parquet" else request.getfixturevalue("log_address")


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """An empty store of either kind."""
    if request.param == "sqlite":
        sqlite_store.create(tmp_path / "new.sqlite")
        place = str(tmp_path / "new.sqlite")
    else:
        place = f"{request.getfixturevalue('redis_address')}?prefix={tmp_path.name}"
        redis_store.create(place)
    opened = open_store(place)
    yield opened
    opened.close()


@pytest.fixture
def toy_filled(store: FeatureStore) -> FeatureStore:
    """The small world in a store of either kind."""
    with store.filling(overwrite=False):
        fill(store, toy_tables())
    return store
