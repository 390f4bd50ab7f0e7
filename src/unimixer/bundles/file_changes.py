"""Describe a file by what it takes from an earlier one: ranges that are copied, and the bytes between them."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from unimixer.bundles.file_parts import Part, open_bytes, parts_of
from unimixer.errors import UnimixerError

Bytes = NDArray[np.uint8]
Copies = NDArray[np.int64]
"""Ranges of equal bytes ``(n, 3)`` in the order of the new file: start there, start in the earlier file, bytes."""

PIECE = 1 << 24
"""Bytes that are compared at once."""
SHIFTS = 64
"""Distances by which rows may have moved together that are tried in full."""
LEAST_COPY = 32
"""Bytes of the shortest range worth copying: its three numbers take 24."""
_SEED = 0x9E3779B97F4A7C15


def changes(before: Path | None, after: Path) -> tuple[Copies, Bytes]:
    """Compare two files tensor by tensor.

    A row that an earlier tensor of the same name has anywhere is copied, so rows that moved cost a few bytes.
    Beside the rows that changed, memory holds some numbers a row: about 20 bytes, and 50 where rows moved.

    Returns:
        The ranges to copy, and all other bytes of the new file in their order.
    """
    new = open_bytes(after)
    if before is None:
        return np.zeros((0, 3), dtype=np.int64), new
    old, there, here = open_bytes(before), parts_of(before), parts_of(after)
    copied = [
        _copies(old, there[name], new, part)
        for name, part in here.items()
        if name in there and there[name].width == part.width
    ]
    copies = _joined(np.concatenate([np.zeros((0, 3), dtype=np.int64), *copied]))
    copies = copies[copies[:, 2] >= LEAST_COPY]
    return copies, _between(new, copies)


def apply_changes(before: Path | None, copies: Copies, literal: Bytes, file: BinaryIO, size: int) -> None:
    """Write the new file.

    Raises:
        UnimixerError: if the ranges do not lie inside both files, in order.
    """
    old = np.zeros(0, dtype=np.uint8) if before is None else open_bytes(before)
    starts, sources, lengths = copies.reshape(-1, 3).T
    ends = np.concatenate([[0], starts + lengths])
    inside = (lengths > 0) & (sources >= 0) & (sources + lengths <= len(old)) & (starts >= ends[:-1])
    if not inside.all() or ends[-1] > size or int(lengths.sum()) + len(literal) != size:
        raise UnimixerError("its ranges do not fit the bundle before; write the delta again")
    at = taken = 0
    for start, source, length in copies.tolist():
        file.write(literal[taken : taken + start - at].data)
        file.write(old[source : source + length].data)
        taken, at = taken + start - at, start + length
    file.write(literal[taken:].data)


def _copies(old: Bytes, there: Part, new: Bytes, here: Part) -> Copies:
    """Find for every row of a part an equal row of the earlier one; rows that follow each other are one range."""
    before, after = _rows(old, there), _rows(new, here)
    source = np.full(len(after), -1, dtype=np.int64)
    _match(before, after, source, 0)
    if (source < 0).any() and len(before):
        _match_moved(before, after, source)
    known = source >= 0
    follows = np.zeros(len(source) + 1, dtype=bool)  # whether a row and its source follow the row before
    follows[1:-1] = known[1:] & known[:-1] & (np.diff(source) == 1)
    starts, stops = np.flatnonzero(known & ~follows[:-1]), np.flatnonzero(known & ~follows[1:]) + 1
    width = here.width
    spans = [here.start + starts * width, there.start + source[starts] * width, (stops - starts) * width]
    return _joined(np.concatenate([np.stack(spans, 1), _ends(old, there, new, here)]))


def _ends(old: Bytes, there: Part, new: Bytes, here: Part) -> Copies:
    """Compare the bytes after the last whole row."""
    left = (here.stop - here.start) % here.width
    first, source = here.stop - left, there.stop - left
    equal = 0 < left <= there.stop - there.start and bool((new[first : here.stop] == old[source : there.stop]).all())
    return np.asarray([[first, source, left]] if equal else [], dtype=np.int64).reshape(-1, 3)


def _rows(data: Bytes, part: Part) -> Bytes:
    whole = part.start + (part.stop - part.start) // part.width * part.width
    return data[part.start : whole].reshape(-1, part.width)


def _match(before: Bytes, after: Bytes, source: NDArray[np.int64], shift: int) -> None:
    """Let rows without a source have the row ``shift`` further in the earlier part where it is equal."""
    first, last = max(0, -shift), min(len(after), len(before) - shift)
    step = max(1, PIECE // max(1, after.shape[1]))
    for start in range(first, last, step):
        stop = min(last, start + step)
        wanted = source[start:stop] < 0
        if wanted.any():
            equal = (before[start + shift : stop + shift] == after[start:stop]).all(1)
            source[start:stop] = np.where(wanted & equal, np.arange(start + shift, stop + shift), source[start:stop])


def _match_moved(before: Bytes, after: Bytes, source: NDArray[np.int64]) -> None:
    """Find moved rows by their content; rows that moved together mostly stay together."""
    hashes = _hashes(before)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]

    def candidates() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.flatnonzero(source < 0)
        wanted = _hashes(after, rows)
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        hit = ordered[at] == wanted
        return rows[hit], order[at[hit]]

    rows, earlier = candidates()
    shifts, counts = np.unique(earlier - rows, return_counts=True)
    for shift in shifts[np.argsort(-counts, kind="stable")[:SHIFTS]]:
        _match(before, after, source, int(shift))
    rows, earlier = candidates()
    step = max(1, PIECE // max(1, after.shape[1]))
    for start in range(0, len(rows), step):
        mine, theirs = rows[start : start + step], earlier[start : start + step]
        equal = (before[theirs] == after[mine]).all(1)  # a hash alone proves nothing
        source[mine[equal]] = theirs[equal]


def _hashes(rows: Bytes, chosen: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
    """Hash rows, or some of them, to 64 bits each."""
    count, width = len(rows) if chosen is None else len(chosen), rows.shape[1]
    padded = -(-width // 8) * 8
    factors = np.random.default_rng(_SEED).integers(1, 2**63, padded // 8, dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(count, dtype=np.uint64)
    step = max(1, PIECE // max(1, width))
    for start in range(0, count, step):
        stop = min(count, start + step)
        words = np.zeros((stop - start, padded), dtype=np.uint8)
        words[:, :width] = rows[start:stop] if chosen is None else rows[chosen[start:stop]]
        mixed = words.view("<u8") * factors
        hashes[start:stop] = (mixed ^ (mixed >> np.uint64(32))).sum(1, dtype=np.uint64)
    return hashes


def _joined(spans: Copies) -> Copies:
    """Join ranges that follow each other in both files, in the order of the new one."""
    if not len(spans):
        return spans
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    ends = spans[:, :2] + spans[:, 2:]
    begins = np.flatnonzero(np.concatenate([[True], (spans[1:, :2] != ends[:-1]).any(1)]))
    joined = spans[begins].copy()
    joined[:, 2] = np.add.reduceat(spans[:, 2], begins)
    return joined


def _between(data: Bytes, copies: Copies) -> Bytes:
    """Collect the bytes of the new file that no range copies."""
    starts = np.concatenate([[0], copies[:, 0] + copies[:, 2]])
    stops = np.concatenate([copies[:, 0], [len(data)]])
    pieces = [data[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True) if b > a]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint8)
