"""Run the steps of a bundle with the C kernels of :mod:`unimixer.ops.native.scoring`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from ctypes import addressof, byref, c_int64, c_void_p
from dataclasses import astuple, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unimixer.bundles.graph import CANDIDATES, USER, Input
from unimixer.bundles.step_checks import Side, check_steps
from unimixer.bundles.steps import Steps
from unimixer.ops.native import scoring
from unimixer.ops.native.scoring import Call, Floats, Kind, Step, Whole
from unimixer.workers.helper_threads import HelperThreads

LEAST = 64
"""Fewest candidates that are worth a thread of their own."""


class KernelRunner:
    """Run steps; any number of threads may call at once.

    Args:
        steps: of a ranker.
        tables: embedding tables in the order of their numbers.
        inputs: tensors of the graph.
        limits: for every tensor of ids the rows of the table of each column.
        threads: of one call.

    Raises:
        ValueError: if a step reads or writes what is not there.
    """

    def __init__(
        self,
        steps: Steps,
        tables: Sequence[Floats],
        inputs: Sequence[Input],
        limits: Mapping[str, Sequence[int]],
        threads: int | None,
    ) -> None:
        kernels = scoring.library()
        assert kernels is not None
        self._run, self._lanes = kernels.run_steps, kernels.lanes()
        self._at = {one.name: index for index, one in enumerate(inputs)}
        self._counts = next(
            (at, one.width is None) for at, one in enumerate(inputs) if str(one.rows).startswith(CANDIDATES)
        )
        sides = {side: _side(side, inputs, limits) for side in (USER, CANDIDATES)}
        self._lists = {side: tuple(own.lists) for side, own in sides.items()}
        self._tables = [np.ascontiguousarray(table) for table in tables]
        self._table_pointers = scoring.pointers(self._tables)
        self._rows = check_steps(steps, self._tables, sides[USER], sides[CANDIDATES])
        self._outputs = {USER: steps.user[-1].out, CANDIDATES: steps.candidates[-1].out}
        self._numbers, self._steps = _packed(steps, kernels.group_rows())
        self._orders, self._memory = steps.orders, threading.local()
        self._threads = threads or torch.get_num_threads()
        self._helpers = HelperThreads(self._threads - 1, "scorer")

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Floats, Floats]:
        """Run the steps of the user, then those of the candidates."""
        at, is_offsets = self._counts
        count = len(tensors[at]) - is_offsets
        shared = np.empty(self._outputs[USER], dtype=np.float32)
        self._call(USER, tensors, shared, None, None, 0, 1)
        logits, probabilities = (np.empty((count, self._outputs[CANDIDATES]), dtype=np.float32) for _ in range(2))
        parts = max(1, min(self._threads, count // LEAST))
        ends = [count * part // parts for part in range(parts + 1)]
        self._helpers.map(
            lambda rows: self._call(CANDIDATES, tensors, logits, probabilities, shared, *rows), list(pairwise(ends))
        )
        return logits, probabilities

    def _call(
        self,
        side: str,
        tensors: Sequence[Tensor],
        logits: Floats,
        probabilities: Floats | None,
        shared: Floats | None,
        start: int,
        stop: int,
    ) -> None:
        """Run the steps of a side for the rows from ``start`` to before ``stop``."""
        scratch = getattr(self._memory, "scratch", None)
        if scratch is None:
            scratch = self._memory.scratch = torch.zeros(self._rows * self._lanes)  # aligned, as numpy's are not
        values = [tensors[self._at[f"{group}.sequence_values"]].numpy() for group in self._lists[side]]
        ends = [
            self._ends(group, tensors, len(events)) for group, events in zip(self._lists[side], values, strict=True)
        ]
        value_pointers, end_pointers = scoring.pointers(values), scoring.pointers(ends)
        ids, dense = (self._at.get(f"{side}.{name}") for name in ("sparse_ids", "dense_features"))
        call = Call(
            ids=None if ids is None else tensors[ids].data_ptr(),
            dense=None if dense is None else tensors[dense].data_ptr(),
            tables=addressof(self._table_pointers),
            values=addressof(value_pointers),
            offsets=addressof(end_pointers),
            shared=None if shared is None else shared.ctypes.data,
            logits=logits.ctypes.data,
            probabilities=None if probabilities is None else probabilities.ctypes.data,
            scratch=scratch.data_ptr(),
            id_columns=0 if ids is None else tensors[ids].shape[1],
            dense_columns=0 if dense is None else tensors[dense].shape[1],
            start=start,
            rows=stop,
        )
        steps = self._steps[side]
        arrays = (c_void_p(array.ctypes.data) for array in (self._numbers, self._orders))
        self._run(c_void_p(steps.ctypes.data), c_int64(len(steps)), *arrays, byref(call))

    def _ends(self, group: str, tensors: Sequence[Tensor], events: int) -> Whole:
        """Return the offsets of a list: those of the candidates, or the one list of the user."""
        at = self._at.get(f"{group}.sequence_offsets")
        ends: Whole = np.array([0, events]) if at is None else tensors[at].numpy()
        return ends


def _side(side: str, inputs: Sequence[Input], limits: Mapping[str, Sequence[int]]) -> Side:
    own = {one.key: one for one in inputs if one.side == side}
    ids, dense, end = own.get("sparse_ids"), own.get("dense_features"), ".sequence_values"
    return Side(
        ids=() if ids is None else limits[ids.name],
        dense=0 if dense is None else dense.width or 0,
        lists={one.name.removesuffix(end): limits[one.name] for one in own.values() if one.name.endswith(end)},
    )


def _packed(steps: Steps, group: int) -> tuple[Floats, dict[str, Whole]]:
    """Lay out the weights of products as the kernels read them, behind the other numbers; returns the steps, too."""
    parts, at = [steps.constants], len(steps.constants)

    def placed(step: Step) -> Step:
        nonlocal at
        if step.kind != Kind.PRODUCT:
            return step
        shape = step.times, step.outputs, step.in_
        weight = steps.weights[step.weight : step.weight + step.times * step.outputs * step.in_].reshape(shape)
        parts.append(scoring.packed(weight, step.form, group))
        start, at = at, at + parts[-1].size
        return replace(step, weight=start)

    sides = {USER: steps.user, CANDIDATES: steps.candidates}
    tables = {side: np.array([astuple(placed(step)) for step in own], np.int64) for side, own in sides.items()}
    return np.concatenate(parts), tables
