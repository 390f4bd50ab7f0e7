"""Locate the tensors inside the files of a bundle, without reading them, so that two files are compared by tensor."""

from __future__ import annotations

import json
import mmap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unimixer.errors import UnimixerError
from unimixer.io import read_errors

BLOCK = 32
"""Bytes of a row of a part without a shape."""
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2, 11: 8}
"""Bytes of a number, by data type of ONNX."""
_HEADER = 30
"""Bytes of the head of a member of a zip archive, before its name."""


@dataclass(frozen=True)
class Part:
    """One tensor inside a file: its bytes ``[start, stop)`` are rows of equal width."""

    start: int
    stop: int
    width: int


def open_bytes(path: Path) -> NDArray[np.uint8]:
    """Map a file into memory; pages are read when they are touched."""
    with read_errors(path):
        if not path.stat().st_size:
            return np.zeros(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")


def parts_of(path: Path) -> dict[str, Part]:
    """List tensors of a file by name, and the gaps between them; a file of another kind is one gap."""
    size = path.stat().st_size
    kinds = {".onnx": _onnx, ".data": _beside_onnx, ".arrow": _arrow, ".safetensors": _safetensors, ".pt2": _zip}
    find = kinds.get(path.suffix)
    try:
        parts = {} if find is None or not size else dict(find(path))
    except (ValueError, KeyError, IndexError, pa.ArrowInvalid, zipfile.BadZipFile) as error:
        raise UnimixerError(f"{path}: not readable as {path.suffix} ({error}); export the run again") from None
    return _with_gaps({name: part for name, part in parts.items() if 0 <= part.start < part.stop <= size}, size)


def _with_gaps(parts: dict[str, Part], size: int) -> dict[str, Part]:
    """Add what lies before, between and after the tensors: the text of a graph, names and shapes."""
    whole, at = {}, 0
    for name, part in sorted(parts.items(), key=lambda entry: entry[1].start):
        if at < part.start:
            whole[f"before {name}"] = Part(at, part.start, BLOCK)
        if at <= part.start:  # two tensors of one place are one part
            whole[name], at = part, part.stop
    if at < size:
        whole["end"] = Part(at, size, BLOCK)
    return whole


def _arrow(path: Path) -> Iterator[tuple[str, Part]]:
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        table = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
        for name, column in zip(table.schema.names, table.columns, strict=True):
            for number, buffer in enumerate(column.buffers()):
                if buffer is not None:
                    start = buffer.address - whole.address
                    yield f"{name}/{number}", Part(start, start + buffer.size, BLOCK)


def _safetensors(path: Path) -> Iterator[tuple[str, Part]]:
    data = open_bytes(path)
    first = 8 + int(data[:8].view("<u8")[0])
    for name, entry in json.loads(data[8:first].tobytes()).items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            yield name, Part(first + start, first + stop, _row_bytes(entry["shape"], stop - start))


def _zip(path: Path) -> Iterator[tuple[str, Part]]:
    data = open_bytes(path)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            head = data[entry.header_offset : entry.header_offset + _HEADER]
            start = entry.header_offset + _HEADER + int(head[26:30].view("<u2").sum())
            yield entry.filename.partition("/")[2], Part(start, start + entry.compress_size, BLOCK)


def _row_bytes(shape: list[int], size: int) -> int:
    """Count the bytes of a row of a tensor; a vector has rows of ``BLOCK`` bytes."""
    return size // shape[0] if len(shape) > 1 and shape[0] else BLOCK


# ---- ONNX: a message of protobuf, of which only the way to the weights is read --------------------------------------

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW, _EXTERNAL = 1, 2, 8, 9, 13


def _onnx(path: Path) -> Iterator[tuple[str, Part]]:
    for name, shape, _, inside, _ in _initializers(path):
        if inside is not None:
            yield name, Part(*inside, _row_bytes(shape, inside[1] - inside[0]))


def _beside_onnx(path: Path) -> Iterator[tuple[str, Part]]:
    """List the tensors of a file of weights, which the graph beside it places."""
    for name, shape, kind, _, outside in _initializers(path.with_suffix("")):
        if outside.get("location") == path.name:
            start = int(outside.get("offset", 0))
            size = int(outside.get("length", prod(shape) * _ITEM_BYTES.get(kind, 4)))
            yield name, Part(start, start + size, _row_bytes(shape, size))


def _initializers(
    path: Path,
) -> Iterator[tuple[str, list[int], int, tuple[int, int] | None, dict[str, str]]]:
    """Iterate over name, shape, type, place in this file and place in another file of all weights."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number, start, stop in _fields(data, 0, len(data)):
            if number != _GRAPH:
                continue
            for inner, first, last in _fields(data, start, stop):
                if inner == _INITIALIZER:
                    yield _tensor(data, first, last)


def _tensor(
    data: mmap.mmap, start: int, stop: int
) -> tuple[str, list[int], int, tuple[int, int] | None, dict[str, str]]:
    shape: list[int] = []
    outside: dict[str, str] = {}
    name, kind, inside = "", 0, None
    for number, first, last in _fields(data, start, stop):
        if number == _DIMS:
            while first < last:
                value, first = _varint(data, first)
                shape.append(value)
        elif number == _DATA_TYPE:
            kind, _ = _varint(data, first)
        elif number == _NAME:
            name = data[first:last].decode()
        elif number == _RAW:
            inside = first, last
        elif number == _EXTERNAL:
            key, text = (data[a:b].decode() for _, a, b in _fields(data, first, last))
            outside[key] = text
    return name, shape, kind, inside, outside


def _fields(data: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Iterate over the fields of a message: number, start and stop of the value."""
    while at < stop:
        tag, at = _varint(data, at)
        kind, start = tag & 7, at
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, start = _varint(data, at)
            at = start + length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        yield tag >> 3, start, at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
