"""Own files: a schema in YAML, and impressions, users and items as Parquet or CSV.

``raw`` is one file of impressions; or a folder of such files, also in folders below it; or a folder with
``impressions.*`` (a file, several, or a folder ``impressions/``) and beside it ``users`` and ``items``, one row a user
or an item, each a file or a folder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from unimixer.data.file_settings import Files
from unimixer.data.raw.adapters.base import parse_options
from unimixer.data.raw.folders import is_table, log_files, say_left_out, table_of
from unimixer.data.raw.readers import read_chunks, read_pieces, read_table
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import Schema, load_schema
from unimixer.errors import UnimixerError
from unimixer.progress import note


def load(raw: Path | None, *, schema: Path | Schema, **options: Any) -> RawTables:
    """Open own files.

    Args:
        raw: the file or the folder.
        schema: the schema file, or the schema itself.
        options: fields of :class:`~unimixer.data.schema.Files` that win over those of the schema.
    """
    name = schema.name if isinstance(schema, Schema) else str(schema)
    meaning = schema if isinstance(schema, Schema) else load_schema(schema)
    files = with_options(meaning.files, name, options)
    if raw is None:
        raise UnimixerError(f"{name} describes own files, but none was given; name the file or folder with --raw")
    impressions, users, items = find_tables(raw)
    optional = meaning.optional_columns()
    reading: dict[str, Any] = {"columns": meaning.needed_columns(outcomes=True), "optional": optional, "files": files}

    def entities(source: Path | None, what: str, key: str | None) -> Chunk | None:
        if source is None or key is None:
            if source is not None:
                note(f"{source}: not read, because the schema names no key of the {what}")
            return None
        # a header that is given is that of the log; tables of entities have one of their own
        own = files.model_copy(update={"header": None})
        return read_table(log_files(source, what), columns=[key], optional=optional, files=own)

    return RawTables(
        schema=meaning.model_copy(update={"files": files}),
        impressions=partial(read_chunks, impressions, **reading),
        users=entities(users, "users", meaning.keys.user),
        items=entities(items, "items", meaning.keys.item),
        files=(*impressions, *(path for place in (users, items) if place is not None for path in log_files(place))),
        reader=partial(read_pieces, impressions, **reading),
    )


def with_options(files: Files, source: str, options: dict[str, Any]) -> Files:
    """Return how files are read, with the options that override those of the schema."""
    overrides = parse_options(Files, source, options)
    return parse_options(Files, source, {**files.model_dump(), **overrides.model_dump(include=set(options))})


def find_tables(raw: Path) -> tuple[list[Path], Path | None, Path | None]:
    """Find the files of impressions, and the files or folders of users and items, if any."""
    if not raw.is_dir():
        return log_files(raw), None, None
    users, items = (table_of(raw, name) for name in ("users", "items"))
    entities = [place for place in (users, items) if place is not None]
    tables = [p for p in sorted(raw.iterdir()) if (p.is_dir() or is_table(p)) and not p.name.startswith((".", "_"))]
    named = [p for p in tables if p.name == "impressions" or (p.is_file() and p.name.startswith("impressions"))]
    if not named:
        if entities and not set(tables) - set(entities):
            raise UnimixerError(f"{raw}: only users and items, no impressions; expected a file or folder beside them")
        return log_files(raw, leave=entities), users, items
    folders = [place for place in named if place.is_dir()]
    if folders and len(named) > 1:
        raise UnimixerError(f"{raw}: {named[0].name} and {named[1].name} both hold impressions; keep one of them")
    say_left_out(raw, [place for place in tables if place not in (*named, *entities)])
    if folders:
        return log_files(folders[0]), users, items
    return log_files(raw, leave=[p for p in raw.iterdir() if p not in named]), users, items
