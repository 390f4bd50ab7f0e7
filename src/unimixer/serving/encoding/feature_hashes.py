"""One number a feature of a request: equal where its encoded values are, so that a replay can name what differs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.data.encoding.transform import Transform
from unimixer.features.batch import Batch
from unimixer.features.request import Request


def field_hashes(request: Request, transform: Transform) -> dict[str, int]:
    r"""Hashes of the features of a request by name.

    A column :math:`x_1, \dots, x_n` has the hash :math:`\sum_i w_i (x_i + 1) \bmod 2^{64}` with odd weights
    :math:`w_i` that look random: another value, or another order, gives another number.
    """
    spec = transform.spec
    found: dict[str, int] = {}
    user, candidates = _columns(request.user), _columns(request.candidates)
    ids = user[: request.user.ids.shape[1]] + candidates[: request.candidates.ids.shape[1]]
    dense = user[request.user.ids.shape[1] :] + candidates[request.candidates.ids.shape[1] :]
    found.update(zip((field.name for field in spec.ids), ids, strict=True))
    place = 0
    for field in spec.dense:
        parts = dense[place : place + field.width]
        found[field.name] = sum((2 * i + 1) * part for i, part in enumerate(parts)) % 2**64
        place += field.width
    for name, fields in spec.groups.items():
        side = request.user if name in request.user.values else request.candidates
        found.update(zip((sequence.name for sequence in fields), _lists(side, name), strict=True))
    return found


def _columns(batch: Batch) -> list[int]:
    """Hashes of the columns of ids, and of those of numbers after them."""
    bits = [_bits(batch.ids.numpy()), _bits(batch.dense.numpy())]
    found: list[int] = _sums(np.concatenate(bits, axis=1)).tolist()
    return found


def _lists(batch: Batch, group: str) -> list[int]:
    """Values and lengths: the same values cut elsewhere are other lists."""
    lengths = _sums(_bits(batch.offsets[group].numpy()[:, None].astype(np.int32)))
    found: list[int] = (_sums(_bits(batch.values[group].numpy())) + lengths * np.uint64(0x9E3779B97F4A7C15)).tolist()
    return found


def _bits(matrix: NDArray[Any]) -> NDArray[np.uint32]:
    """The bits of 32-bit values."""
    return np.ascontiguousarray(matrix).view(np.uint32)


def _sums(bits: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Weighted sums of the columns of an (n, F) matrix."""
    weights = _weights(len(bits))
    found: NDArray[np.uint64] = weights @ bits.astype(np.uint64) + weights.sum()
    return found


def _weights(count: int) -> NDArray[np.uint64]:
    """The first numbers of splitmix64, made odd."""
    return _many_weights(max(1, count - 1).bit_length())[:count]


@lru_cache(maxsize=64)
def _many_weights(bits: int) -> NDArray[np.uint64]:
    """The first ``2 ** bits`` of them: few sizes are kept, whatever numbers of rows requests have."""
    with np.errstate(over="ignore"):
        z = np.arange(1, 2**bits + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) | np.uint64(1)
