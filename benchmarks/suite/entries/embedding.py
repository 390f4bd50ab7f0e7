"""Time embedding tables: a training step against the rows of the table, and the mean of histories of many lengths."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting, UnavailableError, Work
from unimixer.features.embedding import PackedEmbedding
from unimixer.training.optimizers import RowSparseAdam

LARGEST_DENSE = 1_000_000
"""Rows beyond which an optimizer that touches them all is not worth its minutes and gigabytes."""


class Lookup(NamedTuple):
    """Hold a table ``(rows, dim)``, ids ``(B, F)`` and the gradient of their vectors ``(B, F, dim)``."""

    weight: Tensor
    ids: Tensor
    upstream: Tensor


def inputs(case: Case, setting: Setting) -> Lookup:
    """Draw a table and one batch of uniform ids."""
    shape = (case["batch"], case["fields"])
    # far from zero, even summed over a row: where a gradient is tiny, the epsilons of the optimizers differ
    upstream = 0.5 + setting.uniform(*shape, case["dim"])
    ids = setting.integers(case["rows"], *shape)
    return Lookup(setting.normal(case["rows"], case["dim"], scale=0.01), ids, upstream)


def work(case: Case) -> Work:
    """Count a row as read forward; backward it is read and written with its two moments."""
    lookups = case["batch"] * case["fields"]
    return Work(num_bytes=4.0 * 7 * lookups * case["dim"], rows=lookups)


def _update(data: Lookup, *, rule: str) -> Prepared:
    rows, dim = data.weight.shape
    if rule == "dense Adam" and rows > LARGEST_DENSE:
        raise UnavailableError(f"dense Adam reads and writes all {rows:,} rows; measured up to {LARGEST_DENSE:,}")
    table = PackedEmbedding({"table": rows}, dim, sparse_gradients=True).to(data.weight.device)
    with torch.no_grad():
        table.weight.copy_(data.weight)
    optimizer: torch.optim.Optimizer
    if rule == "torch SparseAdam":
        optimizer = torch.optim.SparseAdam(table.parameters(), lr=1e-3)
    elif rule == "dense Adam":
        optimizer = torch.optim.Adam(table.parameters(), lr=1e-3, fused=True)
    else:
        optimizer = RowSparseAdam(table.parameters(), lr=1e-3)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        vectors = F.embedding(data.ids, table.weight) if rule == "dense Adam" else table(data.ids)
        torch.autograd.backward(vectors, data.upstream)
        optimizer.step()
        return vectors

    def results() -> dict[str, Tensor]:
        output = run().detach()
        met = torch.unique(data.ids)
        return {"output": output, "rows met": table.weight.detach()[met], "first rows": table.weight.detach()[:1000]}

    return Prepared(run, results)


class Histories(NamedTuple):
    """Hold a table, the rows of all events, and the start of each history ``(B + 1,)``."""

    weight: Tensor
    events: Tensor
    offsets: Tensor
    upstream: Tensor


def histories(case: Case, setting: Setting) -> Histories:
    """Draw histories of one length."""
    events = setting.integers(case["rows"], case["batch"] * case["length"])
    offsets = torch.arange(0, len(events) + 1, case["length"], device=events.device)
    weight = setting.normal(case["rows"], case["dim"], scale=0.01)
    return Histories(weight, events, offsets, setting.normal(case["batch"], case["dim"]))


def _mean(data: Histories, *, gathered: bool) -> Prepared:
    rows, dim = data.weight.shape
    table = PackedEmbedding({"table": rows}, dim, sparse_gradients=True).to(data.weight.device)
    with torch.no_grad():
        table.weight.copy_(data.weight)
    lengths = data.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)

    def run() -> Tensor:
        table.weight.grad = None
        if gathered:
            empty = torch.zeros_like(data.upstream)
            output = empty.index_add(0, owner, table(data.events)) / lengths.unsqueeze(1)
        else:
            output = table.mean(data.events, data.offsets)
        torch.autograd.backward(output, data.upstream)
        return output

    def results() -> dict[str, Tensor]:
        output = run().detach()
        assert table.weight.grad is not None
        return {"output": output, "gradient": table.weight.grad.to_dense()}

    return Prepared(run, results)


_RULES = ("torch SparseAdam", "row-sparse Adam", "dense Adam")


def _table(rows: int, batch: int = 2048, *, small: bool = False) -> Case:
    return Case.of(small=small, rows=rows, dim=16, fields=20, batch=batch)


BENCHMARKS = (
    Benchmark(
        name="embedding-update",
        measures="look-up, gradient and Adam on the rows met: against the rows of the table",
        inputs=inputs,
        implementations={rule: partial(_update, rule=rule) for rule in _RULES},
        cases=(
            _table(100_000, small=True),
            _table(1_000_000, small=True),
            _table(10_000_000),
            _table(1_000_000, 512),
            _table(1_000_000, 8192),
        ),
        work=work,
    ),
    Benchmark(
        name="history-mean",
        measures="the mean vector of every history, forward and backward: against the length of the histories",
        inputs=histories,
        implementations={"gather and add": partial(_mean, gathered=True), "bags": partial(_mean, gathered=False)},
        cases=(
            *(Case.of(length=length, rows=100_000, dim=16, batch=1024) for length in (10, 50, 200)),
            Case.of(small=False, length=1000, rows=100_000, dim=16, batch=1024),
        ),
        work=lambda case: Work(rows=case["batch"] * case["length"]),
    ),
)
