"""Bundles of arms that answer other calls than the bundle of the server are refused, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arm_cases import always
from eager import EagerBundle

from unimixer.data.schema import History, Keys
from unimixer.errors import UnimixerError
from unimixer.serving.arms import Arms
from unimixer.serving.arms_fit import Opened, check_fit
from unimixer.serving.encoding.parse_request import CallReader
from unimixer.serving.encoding.request import RequestEncoder
from unimixer.serving.stores.sqlite import SQLiteStore


@pytest.fixture
def opened(toy_bundle: EagerBundle, features: Path) -> Iterator[Any]:
    store = SQLiteStore(features)

    def one(folder: str, tasks: tuple[str, ...] = toy_bundle.tasks, **changes: Any) -> Opened:
        encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
        reader = CallReader(encoder, tasks, max_candidates=100)
        return Opened(Path(folder), toy_bundle.transform.schema.model_copy(update=changes), tasks, reader)

    yield one
    store.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": ("is_click",)}, "new: the bundle scores is_click, that of the server is_click, long_view"),
        ({"keys": Keys(user="uid", item="item_id")}, "new: the bundle has other key columns than that of the server"),
        (
            {"histories": (History(name="views", event="long_view", max_length=5),)},
            "new: its history 'views' needs events that the bundle of the server does not take",
        ),
    ],
)
def test_a_bundle_that_takes_other_calls_is_refused(opened: Any, changes: dict[str, Any], sentence: str) -> None:
    arms = Arms([always(arms={"old": {}, "new": {"bundle": "new"}})], set())
    check_fit(opened("server"), {"new": opened("new")}, arms)
    with pytest.raises(UnimixerError, match=sentence):
        check_fit(opened("server"), {"new": opened("new", **changes)}, arms)


def test_the_unit_is_the_key_of_the_users_or_a_column(opened: Any) -> None:
    server = opened("server", keys=Keys(user="uid", item="item_id"))
    with pytest.raises(UnimixerError, match="unit='user_id', but the bundle has the key 'uid' of users"):
        check_fit(server, {}, Arms([always()], set()))
    check_fit(server, {}, Arms([always(unit="session")], set()))
    assert "session" in server.reader.columns["context"]
