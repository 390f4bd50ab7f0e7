"""Hash the encoded values of each feature of a request, so that a replay can name the features that differ."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.encoding.transform import Transform
from unimixer.features.batch import Batch
from unimixer.features.request import Request


def field_hashes(request: Request, transform: Transform) -> dict[str, int]:
    r"""Hash every feature of a request and return the hashes by feature name.

    A column :math:`x_1, \dots, x_n` has the hash :math:`\sum_i w_i (x_i + 1) \bmod 2^{64}` with odd pseudo-random
    weights :math:`w_i`, so that another value or another order almost surely gives another hash.
    """
    spec = transform.spec
    hashes: dict[str, int] = {}
    user, candidates = _columns(request.user), _columns(request.candidates)
    ids = user[: request.user.sparse_ids.shape[1]] + candidates[: request.candidates.sparse_ids.shape[1]]
    dense = user[request.user.sparse_ids.shape[1] :] + candidates[request.candidates.sparse_ids.shape[1] :]
    hashes.update(zip((field.name for field in spec.ids), ids, strict=True))
    start = 0
    for field in spec.dense:
        parts = dense[start : start + field.width]
        hashes[field.name] = sum((2 * i + 1) * part for i, part in enumerate(parts)) % 2**64
        start += field.width
    for name, fields in spec.groups.items():
        side = request.user if name in request.user.sequence_values else request.candidates
        hashes.update(zip((sequence.name for sequence in fields), _lists(side, name), strict=True))
    return hashes


def _columns(batch: Batch) -> list[int]:
    """Hash the columns of ids, and then those of numbers."""
    bits = [_bits(batch.sparse_ids.numpy()), _bits(batch.dense_features.numpy())]
    hashes: list[int] = _sums(np.concatenate(bits, axis=1)).tolist()
    return hashes


def _lists(batch: Batch, group: str) -> list[int]:
    """Hash values and lengths together: the same values split at other places are other lists."""
    lengths = _sums(_bits(batch.sequence_offsets[group].numpy()[:, None].astype(np.int32)))
    hashes: list[int] = (
        _sums(_bits(batch.sequence_values[group].numpy())) + lengths * np.uint64(0x9E3779B97F4A7C15)
    ).tolist()
    return hashes


def _bits(matrix: NDArray[Any]) -> NDArray[np.uint32]:
    """View 32-bit values as their bits."""
    return np.ascontiguousarray(matrix).view(np.uint32)


def _sums(bits: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return the weighted sum of each column of an (n, F) matrix."""
    weights = _weights(len(bits))
    sums: NDArray[np.uint64] = weights @ bits.astype(np.uint64) + weights.sum()
    return sums


def _weights(count: int) -> NDArray[np.uint64]:
    """Return the first outputs of splitmix64, with the lowest bit set."""
    return _many_weights(max(1, count - 1).bit_length())[:count]


@lru_cache(maxsize=64)
def _many_weights(bits: int) -> NDArray[np.uint64]:
    """Return the first ``2 ** bits`` weights: powers of two keep the number of cached sizes small."""
    with np.errstate(over="ignore"):
        z = np.arange(1, 2**bits + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) | np.uint64(1)
