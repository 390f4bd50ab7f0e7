"""Check steps that were read from a file before the C kernels run them, which check nothing themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unimixer.bundles.steps import Steps
from unimixer.ops.native.scoring import Floats, Kind, Step

MOST_ROWS = 1 << 20
"""Rows of the activations of a tile; a model of two million parameters has two thousand."""


@dataclass(frozen=True)
class Side:
    """What the tensors of the user, or of the candidates, have.

    Attributes:
        ids: for every column of ids the rows of its table.
        dense: number of columns of numbers.
        lists: of every list of this side, the rows of the tables of its columns.
    """

    ids: Sequence[int]
    dense: int
    lists: Mapping[str, Sequence[int]]


def check_steps(steps: Steps, tables: Sequence[Floats], user: Side, candidates: Side) -> int:
    """Return the rows of memory that the steps take.

    Raises:
        ValueError: if a step is unknown, or reads or writes what is not there.
    """
    if not (steps.user and steps.candidates and steps.orders.min(initial=0) >= 0):
        raise ValueError("no steps")
    rows = 0
    for side, own, shared in ((user, steps.user, 0), (candidates, steps.candidates, steps.user[-1].out)):
        if [step.kind == Kind.GIVE for step in own] != [False] * (len(own) - 1) + [True]:
            raise ValueError("the last step alone gives the result")
        for number, step in enumerate(own):
            if not _is_plain(step) or not all(end <= limit for end, limit in _reads(step, steps, tables, side, shared)):
                raise ValueError(f"step {number} reads or writes what is not there")
            rows = max(rows, *(getattr(step, name) + count for name, count in step.rows(steps.orders).items()))
    if rows > MOST_ROWS:
        raise ValueError(f"{rows:,} rows of activations")
    return rows


def _is_plain(step: Step) -> bool:
    """Whether every number of a step is in its range."""
    absent = {"bias"}
    absent |= {"width", "source"} if step.kind == Kind.NORM else {"width", "first"} if step.kind == Kind.ADD else set()
    fields = vars(step)
    return (
        all(value >= (-1 if name in absent else 0) for name, value in fields.items())
        and min(step.out + (step.kind == Kind.NORM), step.times + (step.kind == Kind.LIST)) > 0
        and step.kind <= Kind.GIVE
        and (step.kind != Kind.PRODUCT or min(step.stride, step.width) > 0)
    )


def _reads(step: Step, steps: Steps, tables: Sequence[Floats], side: Side, shared: int) -> list[tuple[int, int]]:
    """List the ends of what a step reads beside rows, and the ends of what there is."""
    constants, whole = len(steps.constants), step.times * step.in_ if step.kind == Kind.NORM else step.out
    ordered = [(step.width + whole, len(steps.orders))] if step.width >= 0 else []
    match step.kind:
        case Kind.IDS | Kind.LIST:
            lists = list(side.lists.values())
            if step.source >= len(tables) or step.times >= len(lists) + (step.kind == Kind.IDS) * 2:
                return [(1, 0)]
            columns = side.ids if step.kind == Kind.IDS else lists[step.times]
            if step.first >= len(columns) or (step.kind == Kind.LIST and step.width != len(columns)):
                return [(1, 0)]
            rows, width = tables[step.source].shape
            return [(step.stride + columns[step.first], rows), (step.out, width), (width, step.out)]
        case Kind.NUMBER | Kind.MISSING:
            numbers = step.out * (3 if step.kind == Kind.NUMBER else 1)
            return [(step.first + 1, side.dense), (step.weight + numbers, constants)]
        case Kind.VECTOR:
            return [(step.first + step.out, side.dense)]
        case Kind.PRODUCT:
            outputs = step.times * step.outputs
            biases = shared if step.source else constants
            bias = [(step.bias + outputs, biases)] if step.bias >= 0 else []
            return [(step.weight + outputs * step.in_, len(steps.weights)), *bias]
        case Kind.NORM:
            bias = [(step.bias + step.in_, constants)] if step.bias >= 0 else []
            return [(step.weight + step.in_, constants), (step.stride + 1, constants), *bias, *ordered]
        case Kind.ADD:
            return [(step.weight + 1, constants), *ordered]
        case Kind.REPEAT:
            return [(step.first + step.out, shared)]
    return []
