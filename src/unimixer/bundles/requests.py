"""Make requests out of batches, change them to corner cases, and keep them in a bundle as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unimixer.bundles.graph import CANDIDATES, USER, Input, feed
from unimixer.data.schema import OOV_ID, PADDING_ID
from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.features.request import Request, RequestLayout
from unimixer.features.spec import FeatureSpec

Lists = tuple[dict[str, Tensor], dict[str, Tensor]]


def lists(batch: Batch, groups: list[str], start: int, stop: int) -> Lists:
    """Cut the sequences of neighboring rows, with offsets that begin at zero."""
    values, offsets = {}, {}
    for group in groups:
        ends = batch.sequence_offsets[group][start : stop + 1]
        values[group], offsets[group] = batch.sequence_values[group][int(ends[0]) : int(ends[-1])], ends - ends[0]
    return values, offsets


def request_from(batch: Batch, layout: RequestLayout, user: int, start: int, stop: int) -> Request:
    """Join the user's part of one row with the candidates' part of others, as a request does.

    Args:
        batch: impressions of any users.
        layout: the part of a batch that belongs to the user.
        user: row of the user.
        start: first row of a candidate with its context.
        stop: row after the last candidate.
    """
    ids, dense = layout.user_ids, layout.user_dense
    theirs = [group for group in batch.sequence_values if group not in layout.user_groups]
    rows = slice(start, stop)
    return Request(
        user=Batch(
            batch.sparse_ids[user : user + 1, :ids],
            batch.dense_features[user : user + 1, :dense],
            *lists(batch, list(layout.user_groups), user, user + 1),
        ),
        candidates=Batch(
            batch.sparse_ids[rows, ids:], batch.dense_features[rows, dense:], *lists(batch, theirs, start, stop)
        ),
    )


def repeated(request: Request, rows: int) -> Request:
    """Repeat the candidates of a request up to a number of rows."""
    candidates = request.candidates
    order = torch.arange(rows) % len(candidates)
    values, offsets = {}, {}
    for group in candidates.sequence_values:
        lengths = candidates.sequence_offsets[group].diff()[order]
        offsets[group] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        starts = candidates.sequence_offsets[group][:-1][order]
        owner = torch.repeat_interleave(torch.arange(rows), lengths)
        within = torch.arange(len(owner)) - offsets[group][:-1][owner]
        values[group] = candidates.sequence_values[group][starts[owner] + within]
    return Request(request.user, Batch(candidates.sparse_ids[order], candidates.dense_features[order], values, offsets))


def without_sequences(request: Request) -> Request:
    """Empty every sequence of a request."""

    def emptied(batch: Batch) -> Batch:
        return replace(
            batch,
            sequence_values={group: events[:0] for group, events in batch.sequence_values.items()},
            sequence_offsets={group: torch.zeros_like(ends) for group, ends in batch.sequence_offsets.items()},
        )

    return Request(emptied(request.user), emptied(request.candidates))


def unknown(request: Request) -> Request:
    """Replace every id of a request by the id out of vocabulary."""
    return _of_one_id(request, OOV_ID)


def missing(request: Request) -> Request:
    """Remove every value of a request: padding ids, NaN for numbers, empty sequences."""
    padded = without_sequences(_of_one_id(request, PADDING_ID))
    sides = (
        replace(side, dense_features=torch.full_like(side.dense_features, torch.nan))
        for side in (padded.user, padded.candidates)
    )
    return Request(*sides)


def _of_one_id(request: Request, row: int) -> Request:
    def changed(batch: Batch) -> Batch:
        values = {group: torch.full_like(events, row) for group, events in batch.sequence_values.items()}
        return replace(batch, sparse_ids=torch.full_like(batch.sparse_ids, row), sequence_values=values)

    return Request(changed(request.user), changed(request.candidates))


def made_batch(spec: FeatureSpec, rows: int, generator: torch.Generator) -> Batch:
    """Draw impressions: uniform ids, normal numbers, some missing, sequences of any length."""

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


FILE = "held_out.safetensors"


def save_requests(path: Path, inputs: tuple[Input, ...], requests: Sequence[Request], logits: Sequence[Tensor]) -> None:
    """Write requests with the logits that they must get, as ``NUMBER/NAME`` tensors."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for number, (request, expected) in enumerate(zip(requests, logits, strict=True)):
        for one, tensor in zip(inputs, feed(inputs, request), strict=True):
            tensors[f"{number}/{one.name}"] = tensor.contiguous().clone()
        tensors[f"{number}/logits"] = expected.contiguous().clone()
    save_file(tensors, path)


def load_requests(path: Path, inputs: tuple[Input, ...]) -> list[tuple[Request, Tensor]]:
    """Read the requests and logits of :func:`save_requests`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        count = len({name.partition("/")[0] for name in tensors})
        named = [{one.name: tensors[f"{n}/{one.name}"] for one in inputs} for n in range(count)]
        return [(to_request(inputs, values), tensors[f"{n}/logits"]) for n, values in enumerate(named)]
    except (SafetensorError, KeyError, OSError) as error:
        raise UnimixerError(
            f"{path}: not the held-out requests of this bundle ({error}); export the run again"
        ) from None


def to_request(inputs: Sequence[Input], tensors: Mapping[str, Tensor]) -> Request:
    """Make a request from the named tensors of a signature."""
    batches = {side: _side(side, inputs, tensors) for side in (USER, CANDIDATES)}
    return Request(batches[USER], batches[CANDIDATES])


def _side(side: str, inputs: Sequence[Input], tensors: Mapping[str, Tensor]) -> Batch:
    own = [one for one in inputs if one.side == side]
    lists = [one.name.removesuffix(".sequence_values") for one in own if one.name.endswith(".sequence_values")]
    values = {group: tensors[f"{group}.sequence_values"] for group in lists}
    offsets = {
        group: tensors.get(f"{group}.sequence_offsets", torch.tensor([0, len(values[group])])) for group in lists
    }
    rows = 1
    if side == CANDIDATES:
        axes = [len(tensors[f.name]) - (f.width is None) for f in own if f.rows in (CANDIDATES, f"{CANDIDATES} + 1")]
        rows = axes[0]
    ids = tensors.get(f"{side}.sparse_ids", torch.zeros(rows, 0, dtype=torch.int32))
    return Batch(ids, tensors.get(f"{side}.dense_features", torch.zeros(rows, 0)), values, offsets)
