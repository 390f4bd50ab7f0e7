"""Find the files of a log in folders, their order, and the columns in their paths."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as parquet

from unimixer.errors import UnimixerError
from unimixer.progress import note

CSV_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write in a path for a missing value."""
_HEAD_BYTES = 1 << 16
"""Files of one size are first compared by as much."""


def is_table(path: Path) -> bool:
    """Return whether a name is that of a table."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def is_parquet(path: Path) -> bool:
    """Return whether a name is that of a Parquet file; all others are text."""
    return path.name.lower().endswith(PARQUET_SUFFIXES)


def check_table(path: Path) -> Path:
    """Return the path, or raise if its name is not that of a table."""
    if not is_table(path):
        raise UnimixerError(f"{path}: not a table; its name must end with one of {', '.join(TABLE_SUFFIXES)}")
    return path


def partition_of(path: Path) -> dict[str, str | None]:
    """Return the columns in the folders of a path, as Hive writes them: ``day=2026-01-01/hour=03``."""
    values: dict[str, str | None] = {}
    for part in path.parts[:-1]:
        key, equals, value = part.partition("=")
        if equals and key:
            name = unquote(key)
            if name in values:
                raise UnimixerError(f"{path}: the path names {name!r} twice; every name must be unique")
            values[name] = None if value == _NO_VALUE else unquote(value)
    return values


def log_files(source: Path, what: str = "impressions", leave: Sequence[Path] = ()) -> list[Path]:
    """Return the files of one log: a file, or all tables in a folder and below it, in natural order.

    Args:
        source: the file or the folder.
        what: what the files are, for messages.
        leave: files and folders that belong to something else.

    Raises:
        UnimixerError: there is none; or a part of the log seems to be there twice, or in several formats.
    """
    if not source.is_dir():
        return [check_table(source)] if source.exists() else [source]
    below = [path for path in _walk(source) if not any(path == one or one in path.parents for one in leave)]
    tables = [path for path in below if is_table(path)]
    if not tables:
        raise _nothing(source, [f"*{suffix}" for suffix in TABLE_SUFFIXES], what)
    say_left_out(source, [path for path in below if not is_table(path)])
    check_one_log(tables)
    _check_partitions(source, tables)
    return sorted(tables, key=natural)


def table_of(folder: Path, name: str) -> Path | None:
    """Find the file ``NAME.*`` or the folder ``NAME`` of a table; raise if there are several."""
    tables = [p for p in sorted(folder.iterdir()) if _stem(p) == name and (p.is_dir() or is_table(p))]
    if len(tables) > 1:
        raise UnimixerError(f"{folder}: {tables[0].name} and {tables[1].name} both hold {name}; keep one of them")
    return tables[0] if tables else None


def find_files(folder: Path, pattern: str | Sequence[str], what: str) -> list[Path]:
    """Return the files of a folder that match a pattern, in natural order.

    Args:
        folder: where to look; not below it.
        pattern: one or several glob patterns.
        what: what the files are, for the message.

    Raises:
        UnimixerError: the folder does not exist, or nothing matches, and it lists what was looked for and what is
            there; or two files hold the same rows.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if not folder.is_dir():
        raise UnimixerError(f"{folder}: no such folder; expected the folder with {what} ({', '.join(patterns)})")
    files = {path for one in patterns for path in folder.glob(one) if path.is_file() and not _is_hidden(path.name)}
    if not files:
        raise _nothing(folder, patterns, what)
    near = {path for one in patterns for path in folder.glob(f"{one}?*") if path.is_file()}
    say_left_out(folder, sorted(near - files))
    check_one_log(files)
    return sorted(files, key=natural)


def find_file(folder: Path, pattern: str | Sequence[str], what: str) -> Path:
    """Return the file of a folder that matches a pattern; raise if there are several."""
    files = find_files(folder, pattern, what)
    if len(files) > 1:
        raise UnimixerError(f"{folder}: {files[0].name} and {files[1].name} are both {what}; keep one of them")
    return files[0]


def check_one_log(paths: Iterable[Path]) -> None:
    """Raise if files cannot belong to one log: several formats, one name with two endings, equal content."""
    ordered = sorted(paths, key=natural)
    stems: dict[tuple[Path, str], Path] = {}
    for path in ordered:
        twin = stems.setdefault((path.parent, _stem(path)), path)
        if twin is not path:
            raise UnimixerError(
                f"{path.parent}: {twin.name} and {path.name} seem to hold the same rows; keep one of them"
            )
    kinds = {_kind(path): path for path in ordered if is_table(path)}
    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        raise UnimixerError(
            f"{first} and {second}: a log of several formats would be read twice if one is a copy; keep one format"
        )
    for first, second in _equal(ordered):
        raise UnimixerError(f"{first} and {second} have the same content; remove one of them")


def natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers in names by size."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder except hidden ones and those below hidden folders."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [n for n in folders if not _is_hidden(n) and os.path.realpath(Path(parent) / n) not in seen]
        yield from (Path(parent) / name for name in names if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _stem(path: Path) -> str:
    """Return the name without the ending of a table."""
    ending = max((s for s in (*TABLE_SUFFIXES, ".gz") if path.name.lower().endswith(s)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return ".parquet" if is_parquet(path) else name[name.rindex(".") :]


def _nothing(folder: Path, patterns: Sequence[str], what: str) -> UnimixerError:
    there = sorted(path.name for path in folder.iterdir())
    listing = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    looked = ", ".join(patterns)
    return UnimixerError(f"{folder}: no {what}; looked for {looked}, found {listing or 'an empty folder'}")


def say_left_out(folder: Path, paths: Sequence[Path]) -> None:
    """Print the names of files beside the data that are not read."""
    if paths:
        names = sorted(str(path.relative_to(folder)) for path in paths)
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        note(f"{folder}: not read: {', '.join(names[:8])}{more}")


def _check_partitions(folder: Path, paths: Sequence[Path]) -> None:
    """Raise if the paths below a folder name different columns."""
    first = paths[0]
    keys = list(partition_of(first.relative_to(folder)))
    for path in paths:
        names = list(partition_of(path.relative_to(folder)))
        if names != keys:
            raise UnimixerError(
                f"{path} tells {', '.join(names) or 'no column'} by its folders, but {first} tells "
                f"{', '.join(keys) or 'none'}; name one folder of the log, or give all files the same folders"
            )


def _equal(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield pairs of files with equal bytes, and with rows, under equal values of their partitions."""
    sizes: dict[tuple[int, tuple[tuple[str, str | None], ...]], list[Path]] = {}
    for path in paths:
        sizes.setdefault((path.stat().st_size, tuple(partition_of(path).items())), []).append(path)
    for (size, _), alike in sizes.items():
        if size and len(alike) > 1:
            yield from _pairs(_grouped(alike, _HEAD_BYTES))


def _pairs(groups: Iterable[list[Path]]) -> Iterator[tuple[Path, Path]]:
    for group in groups:
        for same in _grouped(group, None):
            if _has_rows(same[0]):
                yield from combinations(same, 2)


def _grouped(paths: Sequence[Path], limit: int | None) -> Iterator[list[Path]]:
    """Yield groups of two or more files whose bytes, up to a limit, are equal."""
    groups: dict[bytes, list[Path]] = {}
    for path in paths:
        digest = hashlib.blake2b()
        with path.open("rb") as file:
            while block := file.read(_HEAD_BYTES if limit is not None else 1 << 20):
                digest.update(block)
                if limit is not None:
                    break
        groups.setdefault(digest.digest(), []).append(path)
    yield from (group for group in groups.values() if len(group) > 1)


def _has_rows(path: Path) -> bool:
    """Return whether a file holds more than its header; files without rows may be equal."""
    try:
        if is_parquet(path):
            return bool(parquet.read_metadata(path).num_rows)
        with pa.input_stream(str(path)) as stream:
            return len(stream.read(1 << 20).strip().splitlines()) > 1
    except (pa.ArrowException, OSError):
        return True  # the reader says what is wrong with it
