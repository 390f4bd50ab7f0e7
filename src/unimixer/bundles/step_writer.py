"""Collect steps for the C kernels of :mod:`unimixer.ops.native.scoring`, and find room for their activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unimixer.ops.native.scoring import Floats, Form, Kind, Step, Whole


class NoStepsError(Exception):
    """A part of a model has no form in steps."""


@dataclass
class Numbers:
    """What steps point to: weights of products, other constants, orders of rows."""

    weights: list[Floats] = field(default_factory=list)
    constants: list[Floats] = field(default_factory=list)
    orders: list[Whole] = field(default_factory=list)

    def joined(self) -> tuple[Floats, Floats, Whole]:
        """Return one array of each."""
        nothing = np.zeros(0, dtype=np.float32)
        orders = np.concatenate([np.zeros(0, dtype=np.int64), *self.orders])
        return np.concatenate([nothing, *self.weights]), np.concatenate([nothing, *self.constants]), orders


def _kept(parts: list[NDArray[np.generic]], numbers: NDArray[np.generic]) -> int:
    """Add numbers to an array; returns the index of the first."""
    at = sum(part.size for part in parts)
    parts.append(np.ascontiguousarray(numbers).reshape(-1))
    return at


class Writer:
    """Write steps, each result in rows of its own; :meth:`finished` lets results share rows.

    Args:
        numbers: where weights, constants and orders are kept.
    """

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.steps = numbers, list[Step]()
        self.sizes: dict[int, int] = {}
        self._next = 0

    def take(self, rows: int) -> int:
        """Return the first of some new rows."""
        start = self._next
        self.sizes[start] = rows
        self._next += rows
        return start

    def add(self, step: Step) -> None:
        """Append a step."""
        self.steps.append(step)

    def constant(self, numbers: Tensor) -> int:
        """Keep constants; returns the index of the first."""
        return _kept(self.numbers.constants, numbers.detach().float().numpy())  # type: ignore[arg-type]

    def order(self, rows: Sequence[int]) -> int:
        """Keep an order of rows; returns the index of its first."""
        return _kept(self.numbers.orders, np.array(rows, dtype=np.int64))  # type: ignore[arg-type]

    def product(
        self,
        first: int,
        weight: Tensor,
        bias: Tensor | int | None,
        *,
        to: int | None = None,
        form: Form = Form.NONE,
        stride: int = 1,
        width: int = 1,
    ) -> int:
        """Append products of rows from ``first`` on; returns the first row of the result.

        Args:
            first: row.
            weight: ``(out, in)``, or ``(times, out, in)`` for as many products one behind the other. Of a SwiGLU all
                of "up" comes first.
            bias: of all outputs, or the index of a bias in the result of the user's steps.
            to: row of the result (default: new rows).
            form: activation.
            stride: rows between neighboring rows of a product.
            width: rows that count as one row of a product.
        """
        times, outputs, depth = weight.shape if weight.dim() == 3 else (1, *weight.shape)
        out = outputs // 2 if form == Form.SWIGLU else outputs
        bias_at = -1 if bias is None else bias if isinstance(bias, int) else self.constant(bias)
        to = self.take(times * out * width) if to is None else to
        self.add(
            Step(
                Kind.PRODUCT,
                to=to,
                first=first,
                in_=depth,
                out=out,
                weight=_kept(self.numbers.weights, weight.detach().float().numpy()),  # type: ignore[arg-type]
                bias=bias_at,
                stride=stride,
                width=width,
                times=times,
                source=int(isinstance(bias, int)),
                form=form,
            )
        )
        return to

    def sum(self, first: int, source: int, rows: int, *, order: int = -1, factor: Tensor) -> int:
        """Append ``first`` plus ``factor`` times ``source``; returns the first row of the result."""
        to = self.take(rows)
        weight = self.constant(factor)
        self.add(Step(Kind.ADD, to=to, first=first, source=source, out=rows, weight=weight, width=order))
        return to

    def picked(self, start: int, rows: Sequence[int]) -> int:
        """Return the first of the rows ``start + rows``, which are copied unless they are neighbors already."""
        if list(rows) == list(range(rows[0], rows[0] + len(rows))) if rows else True:
            return start + (rows[0] if rows else 0)
        return self.sum(-1, start, len(rows), order=self.order(rows), factor=ONE)

    def finished(self) -> tuple[Step, ...]:
        """Return the steps, with rows that are used again where their result is not read any more."""
        orders = self.numbers.joined()[2]
        starts = np.array(sorted(self.sizes))

        def result_of(row: int) -> int:
            return int(starts[np.searchsorted(starts, row, side="right") - 1])

        used = [{name: result_of(getattr(step, name)) for name in step.rows(orders)} for step in self.steps]
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for at, names in enumerate(used):
            for result in names.values():
                first.setdefault(result, at)
                last[result] = at
        new_start: dict[int, int] = {}
        for result in sorted(first, key=first.__getitem__):
            taken = sorted(
                (new_start[other], new_start[other] + self.sizes[other])
                for other in new_start
                if last[other] >= first[result]  # whoever reads it in the step that makes the new one still needs it
            )
            at = 0
            for start, stop in taken:
                if start - at >= self.sizes[result]:
                    break
                at = max(at, stop)
            new_start[result] = at
        return tuple(
            replace(step, **{name: getattr(step, name) - result + new_start[result] for name, result in names.items()})
            for step, names in zip(self.steps, used, strict=True)
        )


ONE = Tensor([1.0])
