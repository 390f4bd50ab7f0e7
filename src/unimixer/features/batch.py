"""The batch: named flat tensors, and nothing else, from the loader to the exported graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of B impressions.

    Shape:
        - ids: ``(B, F)`` int32, one column a categorical feature
        - dense: ``(B, W)`` float32, NaN where a value is missing
        - values[group]: ``(V, C)`` int32, the group's sequences one after the other, one column a field
        - offsets[group]: ``(B + 1,)`` int64, the sequence of row b is ``values[offsets[b]:offsets[b + 1]]``
        - labels: ``(B, tasks)`` float32; weights: ``(B,)`` float32
        - users: ``(B,)`` int64, the key by which UAUC groups
    """

    ids: Tensor
    dense: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)
    offsets: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    weights: Tensor | None = None
    users: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor."""
        optional = {
            n: None if t is None else function(t)
            for n, t in (("labels", self.labels), ("weights", self.weights), ("users", self.users))
        }
        return replace(
            self,
            ids=function(self.ids),
            dense=function(self.dense),
            values={name: function(tensor) for name, tensor in self.values.items()},
            offsets={name: function(tensor) for name, tensor in self.offsets.items()},
            **optional,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device (copies overlap with compute where memory is pinned)."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs as one flat mapping of names to tensors: the signature of an exported graph."""
        flat = {"ids": self.ids, "dense": self.dense}
        for group in self.values:
            flat[f"{group}.values"] = self.values[group]
            flat[f"{group}.offsets"] = self.offsets[group]
        return flat

    def padded(self) -> Batch:
        """The batch, or in place of one without rows a single row of weight 0 in which everything is missing.

        Processes that train together take every step together: one that ran out of rows takes part with this row,
        which adds exactly nothing to losses and gradients.
        """
        if len(self):
            return self
        ones = {n: self.ids.new_zeros(2, dtype=torch.long) for n in self.offsets}
        return replace(
            self,
            ids=self.ids.new_zeros(1, *self.ids.shape[1:]),
            dense=self.dense.new_full((1, *self.dense.shape[1:]), float("nan")),
            offsets=ones,
            labels=None if self.labels is None else self.labels.new_zeros(1, *self.labels.shape[1:]),
            weights=self.dense.new_zeros(1),
            users=None if self.users is None else self.users.new_zeros(1),
        )
