"""A batch as named flat tensors, in one form from the loader to the exported graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of B impressions.

    Shape:
        - sparse_ids: ``(B, F)`` int32, one column a categorical feature
        - dense_features: ``(B, W)`` float32, NaN where a value is missing
        - sequence_values[group]: ``(V, C)`` int32, the group's sequences one after the other, one column a field
        - sequence_offsets[group]: ``(B + 1,)`` int64, the sequence of row b is
          ``sequence_values[sequence_offsets[b]:sequence_offsets[b + 1]]``
        - labels: ``(B, tasks)`` float32; weights: ``(B,)`` float32
        - users: ``(B,)`` int64, the key by which UAUC groups

    Example:
        >>> batch = Batch(torch.tensor([[3, 1]], dtype=torch.int32), torch.tensor([[0.5]]))
        >>> len(batch), list(batch.inputs()), batch.labels is None
        (1, ['sparse_ids', 'dense_features'], True)
    """

    sparse_ids: Tensor
    dense_features: Tensor
    sequence_values: dict[str, Tensor] = field(default_factory=dict)
    sequence_offsets: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    weights: Tensor | None = None
    users: Tensor | None = None

    def __len__(self) -> int:
        return self.sparse_ids.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor."""
        optional = {
            n: None if t is None else function(t)
            for n, t in (("labels", self.labels), ("weights", self.weights), ("users", self.users))
        }
        return replace(
            self,
            sparse_ids=function(self.sparse_ids),
            dense_features=function(self.dense_features),
            sequence_values={name: function(tensor) for name, tensor in self.sequence_values.items()},
            sequence_offsets={name: function(tensor) for name, tensor in self.sequence_offsets.items()},
            **optional,
        )

    def part(self, start: int, stop: int) -> Batch:
        """Return the rows from ``start`` to before ``stop``.

        Example:
            >>> ids = torch.tensor([[1], [2], [3]], dtype=torch.int32)
            >>> events = {"past": torch.tensor([[7], [8], [9]], dtype=torch.int32)}
            >>> batch = Batch(ids, torch.zeros(3, 0), events, {"past": torch.tensor([0, 2, 2, 3])})
            >>> last = batch.part(1, 3)
            >>> last.sparse_ids.tolist(), last.sequence_values["past"].tolist(), last.sequence_offsets["past"].tolist()
            ([[2], [3]], [[9]], [0, 0, 1])
        """
        ends = {name: offsets[start : stop + 1] for name, offsets in self.sequence_offsets.items()}
        cut = replace(self, sequence_values={}, sequence_offsets={}).map(lambda tensor: tensor[start:stop])
        return replace(
            cut,
            sequence_values={name: self.sequence_values[name][int(e[0]) : int(e[-1])] for name, e in ends.items()},
            sequence_offsets={name: offsets - offsets[0] for name, offsets in ends.items()},
        )

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to a device (copies overlap with compute where memory is pinned)."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs as one flat mapping of names to tensors: the signature of an exported graph."""
        flat = {"sparse_ids": self.sparse_ids, "dense_features": self.dense_features}
        for group in self.sequence_values:
            flat[f"{group}.sequence_values"] = self.sequence_values[group]
            flat[f"{group}.sequence_offsets"] = self.sequence_offsets[group]
        return flat

    def padded(self) -> Batch:
        """Return the batch, or for an empty one a single row of weight 0 in which every value is missing.

        Processes that train together take every step together: one that ran out of rows takes part with this row,
        which adds exactly nothing to losses and gradients.
        """
        if len(self):
            return self
        ones = {n: self.sparse_ids.new_zeros(2, dtype=torch.long) for n in self.sequence_offsets}
        return replace(
            self,
            sparse_ids=self.sparse_ids.new_zeros(1, *self.sparse_ids.shape[1:]),
            dense_features=self.dense_features.new_full((1, *self.dense_features.shape[1:]), float("nan")),
            sequence_offsets=ones,
            labels=None if self.labels is None else self.labels.new_zeros(1, *self.labels.shape[1:]),
            weights=self.dense_features.new_zeros(1),
            users=None if self.users is None else self.users.new_zeros(1),
        )
