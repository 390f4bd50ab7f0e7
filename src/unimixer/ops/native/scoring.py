"""A ranker as a list of steps for the C kernels of ``scoring.c``: their fields, what they touch, and a call of them.

An activation is a row of some candidates; steps name rows by number. Products have their weights in one array, all
other numbers are in a second one, and the orders of rows are in a third one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unimixer.ops import native

SOURCES = (Path(__file__).with_name("scoring.c"), native.SIGMOID)
Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


class Kind(IntEnum):
    """What a step does; the numbers are those of ``scoring.c``."""

    IDS, LIST, NUMBER, VECTOR, MISSING, PRODUCT, NORM, ADD, REPEAT, MEAN, GIVE = range(11)


class Form(IntEnum):
    """Activation of a product."""

    NONE, GELU, SILU, SWIGLU = range(4)


@dataclass(frozen=True)
class Step:
    """One step; fields that its kind does not read are left alone, and rows that are absent are -1.

    - IDS: write the ``out`` numbers of row ``stride + id`` of table ``source`` to row ``to`` and those behind it; the
      id is in column ``first``.
    - LIST: write the mean of such rows over list ``times``; the ids are in column ``first`` of its ``width`` columns.
    - NUMBER: embed column ``first`` of the numbers by the factors, biases and numbers of a missing one at ``weight``,
      ``out`` of each.
    - VECTOR: copy ``out`` columns of numbers from ``first`` on, 0 where one is missing.
    - MISSING: overwrite ``to`` by the ``out`` numbers at ``weight`` where column ``first`` of the numbers is missing.
    - PRODUCT: multiply ``in_`` rows from ``first`` on by the weight and add the bias, which is the user's where
      ``source`` is 1, then apply activation ``form``. Rows of a product are ``width`` rows wide and ``stride`` rows
      apart. This is done ``times`` times, for the rows behind.
    - NORM: normalize ``first`` plus ``source``, taken in order ``width``, for ``times`` tokens of ``in_`` rows; epsilon
      is at ``stride``, and ``form`` 1 centers.
    - ADD: write ``first`` plus the number at ``weight`` times ``source``, taken in order ``width``; ``out`` rows.
    - REPEAT: write ``out`` numbers of the user's result from ``first`` on, for every candidate.
    - MEAN: average ``times`` tokens of ``out`` rows.
    - GIVE: the result is ``out`` rows from ``first`` on.
    """

    kind: int
    to: int = 0
    first: int = 0
    in_: int = 0
    out: int = 0
    weight: int = 0
    bias: int = -1
    stride: int = 1
    width: int = 1
    times: int = 1
    source: int = 0
    form: int = 0

    @property
    def outputs(self) -> int:
        """Rows of the weight of one product."""
        return self.out * (2 if self.form == Form.SWIGLU else 1)

    def rows(self, orders: Whole) -> dict[str, int]:
        """Return how many rows from each named one on are written or read."""
        ordered = self.kind in (Kind.NORM, Kind.ADD) and self.width >= 0
        whole = self.times * self.in_ if self.kind == Kind.NORM else self.out
        added = int(orders[self.width : self.width + whole].max(initial=-1)) + 1 if ordered else whole
        match self.kind:
            case Kind.PRODUCT:
                first, to = (self.times * n * self.stride - self.stride + self.width for n in (self.in_, self.out))
                sizes = {"first": first, "to": to} if self.in_ else {"to": to}
            case Kind.NORM:
                sizes = {"first": whole, "to": whole, "source": added}
            case Kind.ADD:
                sizes = {"first": self.out, "to": self.out, "source": added}
            case Kind.MEAN:
                sizes = {"first": self.times * self.out, "to": self.out}
            case Kind.GIVE:
                sizes = {"first": self.out}
            case _:
                sizes = {"to": self.out}
        return {name: count for name, count in sizes.items() if getattr(self, name) >= 0}


class Call(ctypes.Structure):
    """Tensors of a request, and memory of a call."""

    _fields_ = (
        *((name, c_void_p) for name in ("ids", "dense", "tables", "values", "offsets", "shared")),
        *((name, c_void_p) for name in ("logits", "probabilities", "scratch")),
        *((name, c_int64) for name in ("id_columns", "dense_columns", "start", "rows")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the kernels, built if need be; None where they cannot be built."""
    kernels = native.library(SOURCES)
    if kernels is not None:
        kernels.lanes.restype = kernels.group_rows.restype = c_int64
        kernels.run_steps.restype = None
    return kernels


def packed(weight_NOK: Floats, form: int, rows: int) -> Floats:
    """Put the outputs of products in groups of ``rows``, a gate beside each "up"; the last group is filled with zeros.

    Shape:
        - weight_NOK: ``(times, outputs, in)``; output: flat
    """
    halves = 2 if form == Form.SWIGLU else 1
    times, outputs, depth = weight_NOK.shape
    shown, out = rows // halves, outputs // halves
    groups = -(-out // shown)
    whole = np.zeros((times, halves, groups * shown, depth), dtype=np.float32)
    whole[:, :, :out] = weight_NOK.reshape(times, halves, out, depth)
    by_group = whole.reshape(times, halves, groups, shown, depth).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(by_group).reshape(-1)


def pointers(arrays: Sequence[NDArray[np.generic]]) -> ctypes.Array[c_void_p]:
    """Return the addresses of arrays, which the caller keeps."""
    return (c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))
