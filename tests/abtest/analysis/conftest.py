"""What tests of readings share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from abtest_cases import OPENED


@pytest.fixture(autouse=True)
def closed_databases() -> Iterator[None]:
    """Close the databases that the test opened."""
    yield
    while OPENED:
        OPENED.pop().close()
