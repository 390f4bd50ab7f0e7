"""Dataset named arrays in one memory-mapped Arrow file: vectors, matrices, ragged lists and texts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unimixer.errors import UnimixerError

Array = NDArray[Any]


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: list i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Array
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Array) -> Ragged:
        """Return the lists of some rows, in the order of ``rows``."""
        starts = self.offsets[rows]
        positions, offsets = window_positions(starts, self.offsets[rows + 1] - starts)
        return Ragged(self.values[positions], offsets)


class Chained:
    """Several arrays that are read as one, without a copy of the whole."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    def take(self, positions: NDArray[np.int64]) -> Array:
        """Return the values at some positions of the whole."""
        if len(self._arrays) == 1:
            return self._arrays[0][positions]
        number = np.searchsorted(self._ends, positions, side="right")
        values = np.empty(len(positions), dtype=self._arrays[0].dtype)
        for one in np.unique(number):
            mine, array = number == one, self._arrays[one]
            values[mine] = array[positions[mine] - (self._ends[one] - len(array))]
        return values


def window_positions(starts: Array, lengths: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of windows ``[start, start + length)`` one after the other, and their offsets."""
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths), offsets


def concatenate(parts: list[Ragged]) -> Ragged:
    """Concatenate the lists of several parts."""
    lengths = np.concatenate([np.diff(p.offsets) for p in parts])
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(np.concatenate([p.values for p in parts]), offsets)


def write_arrays(path: Path, columns: Mapping[str, Array | Ragged | pa.Array]) -> None:
    """Write columns of equal length as one record batch."""
    arrays = [_to_arrow(column) for column in columns.values()]
    batch = pa.record_batch(arrays, names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_arrays(path: Path) -> dict[str, Array | Ragged | pa.Array]:
    """Memory-map the columns; texts come back as Arrow arrays."""
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
    except FileNotFoundError:
        raise UnimixerError(f"{path}: a file of the encoded data is missing; prepare the data again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UnimixerError(f"{path}: not a readable Arrow file ({error}); prepare the data again") from None
    return {name: _from_arrow(batch.column(i)) for i, name in enumerate(batch.schema.names)}


def checksum(path: Path) -> str:
    """Compute the CRC-32 of a file, block by block."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            crc = zlib.crc32(piece, crc)
    return f"{crc:08x}"


def _to_arrow(column: Array | Ragged | pa.Array) -> pa.Array:
    if isinstance(column, Ragged):
        return pa.LargeListArray.from_arrays(pa.array(column.offsets), pa.array(column.values))
    if isinstance(column, np.ndarray):
        if column.ndim == 2:
            return pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(column).reshape(-1)), column.shape[1]
            )
        return pa.array(column)
    return column


def _from_arrow(column: pa.Array) -> Array | Ragged | pa.Array:
    if pa.types.is_large_list(column.type):
        return Ragged(column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True))
    if pa.types.is_fixed_size_list(column.type):
        flat = column.values.to_numpy(zero_copy_only=True)
        return flat.reshape(len(column), column.type.list_size)
    if pa.types.is_large_string(column.type):
        return column
    return column.to_numpy(zero_copy_only=True)
