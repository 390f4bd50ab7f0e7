"""Own files: a schema in YAML, and impressions, users and items as Parquet or CSV.

``raw`` is one file of impressions; or a folder of such files; or a folder with ``impressions.*`` (a file, several, or a
folder ``impressions/``) and beside it ``users.*`` and ``items.*``, one row a user or an item.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from unimixer.data.adapters.base import parse_options
from unimixer.data.readers import TABLE_SUFFIXES, find_files, read_chunks, read_pieces, read_table
from unimixer.data.schema import Schema, load_schema
from unimixer.data.tables import RawTables
from unimixer.errors import UnimixerError
from unimixer.settings import Settings


class Options(Settings):
    """What may be chosen when own files are read."""

    separator: str | None = None
    """What stands between two fields of CSV (default: a tab in ``.tsv`` files, else a comma)."""


def load(raw: Path | None, *, schema: Path | Schema, **options: Any) -> RawTables:
    """Open own files.

    Args:
        raw: the file or the folder.
        schema: the schema file, or the schema itself.
        options: the fields of :class:`Options`.
    """
    name = schema.name if isinstance(schema, Schema) else str(schema)
    separator = parse_options(Options, name, options).separator
    meaning = schema if isinstance(schema, Schema) else load_schema(schema)
    if raw is None:
        raise UnimixerError(f"{name} describes own files, but none was given; name the file or folder as 'raw'")
    impressions, users, items = find_tables(raw)
    return RawTables(
        schema=meaning,
        impressions=partial(read_chunks, impressions, separator=separator),
        users=read_table(users, separator=separator) if users else None,
        items=read_table(items, separator=separator) if items else None,
        files=(*impressions, *filter(None, (users, items))),
        reader=partial(read_pieces, impressions, separator=separator),
    )


def find_tables(raw: Path) -> tuple[list[Path], Path | None, Path | None]:
    """The files of impressions, and the tables of users and items where there are any."""
    if raw.is_file():
        return [raw], None, None
    users, items = (_single(raw, name) for name in ("users", "items"))
    named = [raw / "impressions"] if (raw / "impressions").is_dir() else []
    if named:
        return find_files(named[0], _patterns("*"), "impressions"), users, items
    if raw.is_dir() and any(True for pattern in _patterns("impressions*") for _ in raw.glob(pattern)):
        return find_files(raw, _patterns("impressions*"), "impressions"), users, items
    files = find_files(raw, _patterns("*"), "impressions")
    impressions = [path for path in files if path not in (users, items)]
    if not impressions:
        raise UnimixerError(f"{raw}: only users and items, no impressions; looked for {', '.join(_patterns('*'))}")
    return impressions, users, items


def _patterns(stem: str) -> list[str]:
    return [stem + suffix for suffix in TABLE_SUFFIXES]


def _single(folder: Path, name: str) -> Path | None:
    found = [folder / (name + suffix) for suffix in TABLE_SUFFIXES if (folder / (name + suffix)).is_file()]
    if len(found) > 1:
        raise UnimixerError(f"{folder}: {found[0].name} and {found[1].name} both hold {name}; keep one of them")
    return found[0] if found else None
