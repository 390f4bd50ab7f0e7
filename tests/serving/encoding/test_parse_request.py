"""Bodies of ranking requests for several bundles: every arm takes and requires the same columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eager import EagerBundle
from served import CONTEXT

from unimixer.errors import UnimixerError
from unimixer.serving.encoding.parse_request import CallReader
from unimixer.serving.encoding.request import RequestEncoder
from unimixer.serving.stores.sqlite import SQLiteStore

BODY: dict[str, Any] = {
    "user": {"user_id": "u1", "age": 3, "height": 2},
    "context": {**CONTEXT, "weather": "rain", "country": "de"},
    "items": [{"item_id": "i1", "price": 3.0, "stock": 7}, "i2"],
}


@pytest.fixture
def reader(toy_bundle: EagerBundle, features: Path) -> Iterator[CallReader]:
    store = SQLiteStore(features)
    encoder = RequestEncoder(toy_bundle.transform, toy_bundle.layout, store)
    found = CallReader(encoder, toy_bundle.tasks, max_candidates=100)
    columns = found.columns
    shared = {
        "user": columns["user"] | {"height"},
        "items": columns["items"] | {"stock"},
        "context": columns["context"] | {"weather", "country"},
    }
    found.share(shared, found.required | {"weather"})
    yield found
    store.close()


def test_columns_that_only_other_bundles_read_are_taken_and_left_out(reader: CallReader) -> None:
    call, _ = reader.read(BODY, now=0)
    assert call.user_columns == {"age": 3}
    assert call.context == CONTEXT
    assert call.item_columns == [{"price": 3.0}, {}]
    assert {"weather", "country"} <= reader.columns["context"]


def test_a_column_that_another_arm_requires_is_required_of_everyone(reader: CallReader) -> None:
    with pytest.raises(UnimixerError, match="context: column 'weather' is missing; send it, with null"):
        reader.read({**BODY, "context": CONTEXT}, now=0)
    items = [{"item_id": f"i{n}", "weather": None} for n in range(2)]
    with pytest.raises(UnimixerError, match="unknown field 'weather'"):
        reader.read({**BODY, "context": CONTEXT, "items": items}, now=0)


def test_a_column_that_no_bundle_reads_is_refused(reader: CallReader) -> None:
    with pytest.raises(UnimixerError, match="context: unknown field 'whether'; did you mean 'weather'"):
        reader.read({**BODY, "context": {**CONTEXT, "whether": 1}}, now=0)
