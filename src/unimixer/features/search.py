"""Search in long histories: the few events that matter for a candidate are found before they are encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError, check_choice, unknown
from unimixer.features.batch import Batch
from unimixer.features.sequence import owners
from unimixer.features.spec import FeatureSpec

KINDS = ("hard", "soft")
BLOCK_EVENTS = 2**20
"""Events that a hard search reads at once."""


@dataclass(frozen=True, kw_only=True)
class HistorySearch:
    r"""The search of one history, the general search unit of SIM (arXiv:2006.05639), Eq. (1).

    .. math::
        r_i = \begin{cases} [\,C_i = C_a\,] & \text{hard search} \\ e_i \cdot e_a & \text{soft search} \end{cases}

    Hard search keeps the latest ``top_k`` events whose value :math:`C_i` of a field equals that of the candidate
    :math:`C_a`; a missing or unknown value is a value like others. Soft search keeps the ``top_k`` events with the
    largest inner product, of equal ones the later: :math:`e` are the embeddings of the fields that an event and the
    candidate both have, as the tables have them, where the paper learns a projection on a loss of its own. A search has
    no gradient. The encoder then reads the found events in their order, as the paper's exact search unit does.
    """

    kind: str = "hard"
    top_k: int = 50
    field: str | None = None
    """The candidate's field that is compared (hard search only)."""
    id_column: int = 0
    """Column of the field in ``Batch.sparse_ids``."""
    event_column: int = 0
    """Column of its counterpart in the history."""

    @classmethod
    def of(cls, spec: FeatureSpec, group: str, values: Mapping[str, Any]) -> HistorySearch:
        """Read the search of a history from a recipe.

        Raises:
            UnimixerError: unknown key, history or field, a value of the wrong type, or a key without effect.
        """
        where = f"sequence_search.{group}"
        if group not in spec.groups:
            raise unknown("history in sequence_search", group, spec.groups)
        for key in values:
            if key not in ("kind", "top_k", "field"):
                raise unknown(f"key of {where}", key, ("kind", "top_k", "field"))
        chosen = cls(**values)
        check_choice(f"{where}.kind", chosen.kind, KINDS)
        if isinstance(chosen.top_k, bool) or not isinstance(chosen.top_k, int) or chosen.top_k < 1:
            raise UnimixerError(f"{where}.top_k={chosen.top_k!r} must be a whole number from 1 on")
        if (chosen.kind == "hard") != (chosen.field is not None):
            rule = "needs the field" if chosen.kind == "hard" else "compares embeddings and has no field"
            raise UnimixerError(f"{where}: {chosen.kind} search {rule}; set field for hard search, and only for it")
        if chosen.field is None:
            return chosen
        columns = {f.name: column for column, f in enumerate(spec.ids)}
        tables = {f.name: f.table for f in spec.ids}
        counterparts = {
            f.target: column
            for column, f in enumerate(spec.groups[group])
            if f.target is not None and tables.get(f.target) == f.table
        }
        if chosen.field not in counterparts:
            raise UnimixerError(
                f"{where}.field={chosen.field!r} is no field of the candidate that the history {group!r} has too, with "
                f"one table for both; such fields: {', '.join(counterparts) or 'none'}"
            )
        return replace(chosen, id_column=columns[chosen.field], event_column=counterparts[chosen.field])

    def matches(self, ids: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        """Mark the events that a hard search finds: ``(B, F)``, ``(V, C)`` and ``(B + 1,)`` to ``(V,)``."""
        owner = owners(offsets, values.shape[0])
        return newest(values[:, self.event_column] == ids[owner, self.id_column], offsets, self.top_k)


def newest(match: Tensor, offsets: Tensor, count: int) -> Tensor:
    """Select the last ``count`` marked events of every row: ``(V,)`` and ``(B + 1,)`` to ``(V,)``.

    Example:
        >>> newest(torch.tensor([True, True, False, True, True]), torch.tensor([0, 4, 5]), 2).tolist()
        [False, True, False, True, True]
    """
    before = torch.nn.functional.pad(match.cumsum(0), (1, 0))  # marked events before each one
    of_row = before[offsets[1:]]
    later = of_row[owners(offsets, match.shape[0])] - before[1:]
    return match & (later < count)


def nearest(scores: Tensor, offsets: Tensor, count: int) -> Tensor:
    """Select the ``count`` events of every row with the largest scores, of equal ones the later: as :func:`newest`.

    Example:
        >>> nearest(torch.tensor([2.0, 1.0, 1.0, 5.0]), torch.tensor([0, 3, 4]), 2).tolist()
        [True, False, True, True]
    """
    number = torch.arange(scores.shape[0], device=scores.device)
    owner = owners(offsets, scores.shape[0])
    order = number.flip(0)
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[owner[order].argsort(stable=True)]  # rows together, the best event first
    return torch.zeros_like(number, dtype=torch.bool).index_put((order,), number - offsets[owner] < count)


def inner_products(keys: Tensor, queries: Tensor) -> Tensor:
    """Add up products column by column, so that all paths of the program get the same bits: ``(..., Q)`` to ``(...)``.

    Events at the limit of a search differ by little, and another rounding would find another event.
    """
    pairs = [key * query for key, query in zip(keys.unbind(-1), queries.unbind(-1), strict=True)]
    total = pairs[0]
    for pair in pairs[1:]:
        total = total + pair
    return total


def keep(values: Tensor, offsets: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kept events and their offsets: ``(V, ...)``, ``(B + 1,)`` and ``(V,)``."""
    return values[kept], torch.nn.functional.pad(kept.cumsum(0), (1, 0))[offsets]


def search_batch(batch: Batch, searches: Mapping[str, HistorySearch]) -> Batch:
    """Leave only the found events of hard searches in a batch, in memory that does not grow with the histories.

    A second search finds the same events and returns the batch itself, so whoever embeds it need not know of the first.
    """
    hard = {group: search for group, search in searches.items() if search.kind == "hard"}
    values, offsets = dict(batch.sequence_values), dict(batch.sequence_offsets)
    for group, search in hard.items():
        blocks = [
            keep(part.sequence_values[group], ends, search.matches(part.sparse_ids, part.sequence_values[group], ends))
            for part in _blocks(batch, group)
            for ends in (part.sequence_offsets[group],)
        ]
        lengths = torch.cat([ends.diff() for _, ends in blocks])
        values[group] = torch.cat([events for events, _ in blocks])
        offsets[group] = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    if all(len(values[group]) == len(batch.sequence_values[group]) for group in hard):
        return batch
    return replace(batch, sequence_values=values, sequence_offsets=offsets)


def _blocks(batch: Batch, group: str) -> Iterator[Batch]:
    """Cut a batch into rows with about ``BLOCK_EVENTS`` events."""
    rows = max(1, len(batch) * BLOCK_EVENTS // max(1, len(batch.sequence_values[group])))
    ids, ends = batch.sparse_ids, batch.sequence_offsets[group]
    one = Batch(ids, batch.dense_features, {group: batch.sequence_values[group]}, {group: ends})
    for start in range(0, max(1, len(batch)), rows):
        yield one.part(start, start + rows)
