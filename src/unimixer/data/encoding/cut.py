"""Cut the transform of an earlier day out of that of a later one: the first rows of every table are the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.encoding.arrays import Ragged
from unimixer.data.encoding.entities import EntityTable
from unimixer.data.encoding.layout import is_id
from unimixer.data.encoding.rows import Rows
from unimixer.data.encoding.transform import Transform
from unimixer.data.schema import FIRST_ID, OOV_ID, Feature


def cut(transform: Transform, tables: Mapping[str, int]) -> Transform:
    """Return a transform that does not know the values which got rows later.

    Users, items and events stay: the rows of impressions refer to them, and windows of histories end before their time.

    Args:
        transform: of a later day.
        tables: rows of every embedding table on the earlier day.
    """
    vocabularies = {
        name: vocabulary
        if vocabulary.num_buckets
        else replace(vocabulary, texts=vocabulary.texts.head(rows - FIRST_ID))
        for name, rows in tables.items()
        for vocabulary in (transform.vocabularies[name],)
    }
    cut_ = replace(transform, vocabularies=vocabularies, read_log_end=None)  # the earlier day counted less

    def entities(table: EntityTable, features: Sequence[Feature], shown: Sequence[Feature]) -> EntityTable:
        ids, history_ids = _known(cut_, table.ids, features), _known(cut_, table.history_ids, shown)
        return replace(table, ids=ids, history_ids=history_ids, lists=_known_lists(cut_, table.lists))

    users, items = ([f for f in transform.features(origin) if is_id(f)] for origin in ("users", "items"))
    shown = transform.history_features() if transform.items.history_ids.shape[1] else []
    return replace(cut_, users=entities(transform.users, users, []), items=entities(transform.items, items, shown))


def known_rows(transform: Transform, rows: Rows) -> Rows:
    """Return impressions of a later day as an earlier transform encodes them: later values are unknown."""
    features = [f for f in transform.features("impressions") if is_id(f)]
    return replace(rows, ids=_known(transform, rows.ids, features), lists=_known_lists(transform, rows.lists))


def _known(transform: Transform, ids: NDArray[np.int32], features: Sequence[Feature]) -> NDArray[np.int32]:
    if not features:
        return ids
    limits = np.array([_limit(transform, feature) for feature in features], dtype=np.int32)
    return np.where(ids >= limits, np.int32(OOV_ID), ids)


def _known_lists(transform: Transform, lists: Mapping[str, Ragged]) -> dict[str, Any]:
    named = {feature.name: feature for feature in transform.schema.features}
    return {
        name: Ragged(np.where(r.values >= _limit(transform, named[name]), np.int32(OOV_ID), r.values), r.offsets)
        for name, r in lists.items()
    }


def _limit(transform: Transform, feature: Feature) -> int:
    return transform.vocabularies[feature.table_name].num_embeddings
