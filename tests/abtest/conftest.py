"""Databases of events that tests of experiments share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from database import Database, started

from unimixer.abtest.events import Events


@pytest.fixture(scope="session")
def shared_database() -> Iterator[Database]:
    """A real PostgreSQL that tests share; each has a schema of its own."""
    yield from started()


@pytest.fixture
def database() -> Iterator[Database]:
    """A real PostgreSQL that a test may stop."""
    yield from started()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a database of either kind without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.sqlite'}"
    server, schema = request.getfixturevalue("shared_database"), f"e{uuid.uuid4().hex}"
    server.ask(f"CREATE SCHEMA {schema}")
    return f"{server.address()}?options=-csearch_path%3D{schema}"


@pytest.fixture
def events(address: str) -> Iterator[Events]:
    """An open database of either kind."""
    opened = Events(address)
    yield opened
    opened.close()
