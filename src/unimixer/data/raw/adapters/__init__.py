"""Adapters open raw data: one for each public data set, and ``own`` for files with a schema of the user."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from unimixer.data.raw.tables import RawTables
from unimixer.data.schema import Schema
from unimixer.errors import unknown

ADAPTERS = {
    name: f"unimixer.data.raw.adapters.{function}"
    for name, function in {
        "avazu": "avazu:load",
        "avazu-x1": "bars:load_avazu_x1",
        "avazu-x4": "bars:load_avazu_x4",
        "criteo": "criteo:load",
        "criteo-x1": "bars:load_criteo_x1",
        "criteo-x4": "bars:load_criteo_x4",
        "kuairand-1k": "kuairand:load_1k",
        "kuairand-27k": "kuairand:load_27k",
        "kuairand-pure": "kuairand:load_pure",
        "kuaivideo-x1": "bars:load_kuaivideo_x1",
        "movielens-100k": "movielens:load_100k",
        "movielens-1m": "movielens:load_1m",
        "movielenslatest-x1": "bars:load_movielenslatest_x1",
        "open-bandit": "open_bandit:load",
        "synthetic": "synthetic:load",
        "taobao-ads": "taobao_ads:load",
        "taobaoad-x1": "bars:load_taobaoad_x1",
        "yambda-50m": "yambda:load_50m",
        "yambda-500m": "yambda:load_500m",
        "yambda-5b": "yambda:load_5b",
    }.items()
}
"""Names of the data sets, and the functions ``(raw, **options)`` that open them, imported when asked for."""

__all__ = ["ADAPTERS", "open_raw"]


def open_raw(source: str, raw: Path | None = None, *, schema: Schema | None = None, **options: Any) -> RawTables:
    """Open raw data by the name of a data set, or by an own schema.

    Args:
        source: a name in :data:`ADAPTERS`, or the path of a schema file (``.yaml``) that describes own files.
        raw: the folder, or the file, with the raw data.
        schema: the meaning of the columns, if it is known already (default: the schema file, or that of the data set).
        options: settings of the adapter (the fields of its ``Options``), as plain YAML values.

    Raises:
        UnimixerError: an unknown name or option, with the nearest one; or files that are not as they should be.

    Example:
        >>> tables = open_raw("kuairand-pure", Path("KuaiRand-Pure"), labels="is_click")  # doctest: +SKIP
        >>> tables.schema.label_names  # doctest: +SKIP
        ('is_click',)
    """
    if source in ADAPTERS:
        module, _, function = ADAPTERS[source].partition(":")
        load = getattr(importlib.import_module(module), function)
    elif source.endswith((".yaml", ".yml")):
        own = importlib.import_module("unimixer.data.raw.adapters.own")
        return own.load(raw, schema=schema or Path(source), **options)  # type: ignore[no-any-return]
    else:
        raise unknown("data set or schema file (.yaml)", source, ADAPTERS)
    tables: RawTables = load(raw, **options)
    return tables if schema is None else replace(tables, schema=schema)
