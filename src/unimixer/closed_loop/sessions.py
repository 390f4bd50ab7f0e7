"""What passes between users and rankers: the sessions of a day, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sessions:
    """Sessions of one day, B of them, each with the items to rank."""

    day: int
    user: Tensor
    number: Tensor
    """Of the session on its day, from 0."""
    time: Tensor
    """Milliseconds since 1970, UTC."""
    context: dict[str, Tensor]
    candidates: Tensor
    """``(B, candidates)``, all different, from the most to the least popular."""
    chance: Tensor
    """``(B, candidates, 2)``, the true probabilities of click and like."""
    luck: Tensor
    """``(B, candidates)``, uniform draws: a candidate is clicked, or liked, if its probability exceeds its draw."""

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Visits:
    """Sessions and what came of them, N of them; a user sees k items."""

    day: Tensor
    user: Tensor
    number: Tensor
    time: Tensor
    items: Tensor
    """``(N, k)``, in the order shown."""
    clicks: Tensor
    likes: Tensor
    similarity: Tensor
    """Mean pairwise cosine of the vectors of the shown items."""
    satisfaction: Tensor
    """With the list, in standard deviations of lists drawn at random."""
    context: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Tensor) -> Visits:
        """Return the visits at some rows."""
        context = {name: column[rows] for name, column in self.context.items()}
        return Visits(**{f.name: getattr(self, f.name)[rows] for f in fields(self)[:-1]}, context=context)

    @staticmethod
    def join(parts: Sequence[Visits]) -> Visits:
        """Concatenate visits; one part or more."""
        context = {name: torch.cat([part.context[name] for part in parts]) for name in parts[0].context}
        columns = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Visits)[:-1]}
        return Visits(**columns, context=context)
