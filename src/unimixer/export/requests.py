"""Requests out of batches: real rows, the corner cases, and rows made up where there are none."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unimixer.data.schema import OOV_ID, PADDING_ID
from unimixer.features.batch import Batch
from unimixer.features.request import Request, RequestLayout
from unimixer.features.spec import FeatureSpec

Lists = tuple[dict[str, Tensor], dict[str, Tensor]]


def lists(batch: Batch, groups: list[str], start: int, stop: int) -> Lists:
    """Sequences of neighbouring rows, with offsets that begin at zero."""
    values, offsets = {}, {}
    for group in groups:
        ends = batch.offsets[group][start : stop + 1]
        values[group], offsets[group] = batch.values[group][int(ends[0]) : int(ends[-1])], ends - ends[0]
    return values, offsets


def request_from(batch: Batch, layout: RequestLayout, user: int, start: int, stop: int) -> Request:
    """The user's part of one row with the candidates' part of others: what a request asks of any log.

    Args:
        batch: impressions of any users.
        layout: what of a batch belongs to the user.
        user: row whose user asks.
        start: first row whose item and context are a candidate.
        stop: row after the last.
    """
    ids, dense = layout.user_ids, layout.user_dense
    theirs = [group for group in batch.values if group not in layout.user_groups]
    rows = slice(start, stop)
    return Request(
        user=Batch(
            batch.ids[user : user + 1, :ids],
            batch.dense[user : user + 1, :dense],
            *lists(batch, list(layout.user_groups), user, user + 1),
        ),
        candidates=Batch(batch.ids[rows, ids:], batch.dense[rows, dense:], *lists(batch, theirs, start, stop)),
    )


def repeated(request: Request, rows: int) -> Request:
    """The request with its candidates repeated up to a number of them."""
    found = request.candidates
    order = torch.arange(rows) % len(found)
    values, offsets = {}, {}
    for group in found.values:
        lengths = found.offsets[group].diff()[order]
        offsets[group] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        starts = found.offsets[group][:-1][order]
        owner = torch.repeat_interleave(torch.arange(rows), lengths)
        within = torch.arange(len(owner)) - offsets[group][:-1][owner]
        values[group] = found.values[group][starts[owner] + within]
    return Request(request.user, Batch(found.ids[order], found.dense[order], values, offsets))


def without_sequences(request: Request) -> Request:
    """The request with every sequence empty."""

    def emptied(batch: Batch) -> Batch:
        return replace(
            batch,
            values={group: found[:0] for group, found in batch.values.items()},
            offsets={group: torch.zeros_like(found) for group, found in batch.offsets.items()},
        )

    return Request(emptied(request.user), emptied(request.candidates))


def unknown(request: Request) -> Request:
    """The request with every id out of vocabulary."""
    return _of_one_id(request, OOV_ID)


def missing(request: Request) -> Request:
    """The request without any value: padding ids, NaN for numbers, empty sequences."""
    found = without_sequences(_of_one_id(request, PADDING_ID))
    sides = (replace(side, dense=torch.full_like(side.dense, torch.nan)) for side in (found.user, found.candidates))
    return Request(*sides)


def _of_one_id(request: Request, row: int) -> Request:
    def changed(batch: Batch) -> Batch:
        values = {group: torch.full_like(found, row) for group, found in batch.values.items()}
        return replace(batch, ids=torch.full_like(batch.ids, row), values=values)

    return Request(changed(request.user), changed(request.candidates))


def made_batch(spec: FeatureSpec, rows: int, generator: torch.Generator) -> Batch:
    """Impressions that never were: every id as likely, normal numbers, some missing, sequences of any length."""

    def draw(tables: list[int], count: int) -> Tensor:
        shares = torch.rand(count, len(tables), generator=generator)
        return (shares * torch.tensor(tables, dtype=torch.float32)).int().minimum(torch.tensor(tables).int() - 1)

    dense = torch.randn(rows, spec.dense_width, generator=generator)
    dense[torch.rand(dense.shape, generator=generator) < 0.1] = torch.nan
    values, offsets = {}, {}
    for group, fields in spec.groups.items():
        lengths = torch.randint(0, fields[0].max_length + 1, (rows,), generator=generator)
        offsets[group] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        values[group] = draw([spec.tables[f.table] for f in fields], int(offsets[group][-1]))
    return Batch(draw([spec.tables[f.table] for f in spec.ids], rows), dense, values, offsets)
