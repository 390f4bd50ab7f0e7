"""A ranking request: one user and many candidates, each with its own values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch


@dataclass(frozen=True)
class RequestLayout:
    """The part of a batch that belongs to the user and is equal for all candidates.

    Example:
        >>> RequestLayout(user_ids=1, user_dense=0, user_groups=("clicked",)).user_ids
        1
    """

    user_ids: int
    """Leading columns of ``Batch.sparse_ids``."""
    user_dense: int
    """Leading columns of ``Batch.dense_features``."""
    user_groups: tuple[str, ...]
    """Sequence groups: histories and lists of the user."""


@dataclass(frozen=True)
class Request:
    """One user and N candidates; :meth:`batch` is the same as an ordinary batch of N impressions.

    Shape:
        - user: a batch of one row, with the user's columns and groups alone
        - candidates: a batch of N rows, with the columns and groups of items and context

    Example:
        >>> user = Batch(torch.tensor([[7]]), torch.zeros(1, 0))
        >>> candidates = Batch(torch.tensor([[3], [4]]), torch.zeros(2, 0))
        >>> Request(user, candidates).batch().sparse_ids.tolist()
        [[7, 3], [7, 4]]
    """

    user: Batch
    candidates: Batch

    def __len__(self) -> int:
        return len(self.candidates)

    def batch(self) -> Batch:
        """Return the batch that training would see: the user's part, repeated for every candidate."""
        rows = len(self)
        values = {name: events.repeat(rows, 1) for name, events in self.user.sequence_values.items()}
        offsets = {
            name: torch.arange(rows + 1, device=ends.device) * int(ends[1])
            for name, ends in self.user.sequence_offsets.items()
        }
        return Batch(
            sparse_ids=torch.cat([self.user.sparse_ids.expand(rows, -1), self.candidates.sparse_ids], dim=1),
            dense_features=torch.cat(
                [self.user.dense_features.expand(rows, -1), self.candidates.dense_features], dim=1
            ),
            sequence_values={**values, **self.candidates.sequence_values},
            sequence_offsets={**offsets, **self.candidates.sequence_offsets},
        )

    def part(self, start: int, stop: int) -> Request:
        """Return the same user with the candidates from ``start`` to before ``stop``."""
        return Request(self.user, self.candidates.part(start, stop))

    @classmethod
    def of(cls, batch: Batch, layout: RequestLayout) -> Request:
        """Invert :meth:`batch`, for a batch whose rows are all of one user at one time.

        Raises:
            UnimixerError: if the rows differ in what belongs to the user.
        """
        ids, dense = batch.sparse_ids[:, : layout.user_ids], batch.dense_features[:, : layout.user_dense]
        one = (
            len(batch) > 0
            and bool((ids == ids[:1]).all())
            and torch.allclose(dense, dense[:1], rtol=0, atol=0, equal_nan=True)
        )
        user_values, user_offsets = {}, {}
        for name in layout.user_groups:
            lengths = batch.sequence_offsets[name].diff()
            first = batch.sequence_values[name][: int(lengths[0]) if len(lengths) else 0]
            one = one and bool((lengths == lengths[:1]).all())
            one = one and torch.equal(batch.sequence_values[name], first.repeat(len(batch), 1))
            user_values[name], user_offsets[name] = first, batch.sequence_offsets[name][:2]
        if not one:
            raise UnimixerError("a request is one user at one time: the rows of this batch differ in the user's part")
        own = [name for name in batch.sequence_values if name not in layout.user_groups]
        return cls(
            user=Batch(ids[:1], dense[:1], user_values, user_offsets),
            candidates=Batch(
                batch.sparse_ids[:, layout.user_ids :],
                batch.dense_features[:, layout.user_dense :],
                {name: batch.sequence_values[name] for name in own},
                {name: batch.sequence_offsets[name] for name in own},
            ),
        )
