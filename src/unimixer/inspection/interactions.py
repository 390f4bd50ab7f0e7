"""Measure which parts of the input interact: in the model itself, and in its learned mixing matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from unimixer.inspection.matrices import LearnedMixing
from unimixer.inspection.parts import Part
from unimixer.metrics import auc
from unimixer.ranker import Ranker

Pair = tuple[int, int]
TOP = 0.1
"""Share of the pairs whose share of the interaction is the concentration."""


LEAST_PAIRS = 10
LANDMARKS = {"dense": 0.52, "sparse": 0.87}
"""Concentration of a RankMixer on worlds in which all 120 pairs of groups interact, and 12 of them; docs/inspect.md has
the commands."""


@dataclass(frozen=True)
class Recovery:
    """Agreement of strengths with the pairs that truly interact."""

    auc: float
    """Probability that a true pair is stronger than another one; .5 for strengths that know nothing."""
    precision: float
    """Share of true pairs among as many strongest pairs as there are true ones."""
    chance: float
    """Expected precision of strengths that know nothing: the share of true pairs among all."""

    def as_json(self) -> dict[str, float]:
        """Return plain values."""
        return {"auc": self.auc, "precision": self.precision, "chance": self.chance}


@dataclass(frozen=True)
class Interactions:
    """Strengths of all pairs of parts of the input."""

    by: str
    """``tokens``, ``fields`` or ``groups``."""
    task: str
    rows: int
    parts: list[Part]
    model: Tensor
    """``(P, P)``, mean squared second difference of the logit, see :func:`second_differences`."""
    matrices: Tensor | None
    """``(P, P)``, strength in the learned matrices, see :func:`mixing_strengths`; None without learned mixing."""
    truth: list[Pair] | None = None
    """Pairs that interact in the world that made the data, where they are known."""

    @property
    def concentration(self) -> float:
        """Share of the interaction in the strongest tenth of the pairs."""
        return concentration(self.model)

    def ranked(self) -> list[Pair]:
        """Return all pairs, the strongest in the model first."""
        pairs = list(combinations(range(len(self.parts)), 2))
        return sorted(pairs, key=lambda pair: -self.model[pair].item())

    def recovery(self) -> dict[str, Recovery]:
        """Compare both strengths with the truth; empty where it is not known, or all pairs or none interact."""
        if not self.truth or len(self.truth) == len(self.ranked()):
            return {}
        strengths = {"model": self.model, "matrices": self.matrices}
        return {name: recovery(values, self.truth) for name, values in strengths.items() if values is not None}

    def sentences(self) -> list[str]:
        """Say how concentrated the interaction is, and whether the strengths agree with the truth.

        Of fewer than :data:`LEAST_PAIRS` pairs no tenth can be taken, and nothing is said.
        """
        if len(self.ranked()) < LEAST_PAIRS:
            return []
        sentences = [
            f"the strongest tenth of the pairs holds {self.concentration:.0%} of the interaction; a RankMixer trained "
            f"to the end holds {LANDMARKS['dense']:.0%} where all pairs interact and {LANDMARKS['sparse']:.0%} where a "
            "tenth of them does, and a model that has learned little looks like the latter"
        ]
        for name, recovery in self.recovery().items():
            sentences.append(
                f"interactions in the {name} against the true pairs: AUC {recovery.auc:.3f} (.5 by chance), "
                f"precision {recovery.precision:.0%} ({recovery.chance:.0%} by chance)"
            )
        return sentences

    def as_json(self) -> dict[str, Any]:
        """Return plain values, with both matrices."""
        return {
            "by": self.by,
            "task": self.task,
            "rows": self.rows,
            "parts": [{"name": part.name, "fields": dict(part.fields)} for part in self.parts],
            "model": self.model.tolist(),
            "matrices": None if self.matrices is None else self.matrices.tolist(),
            "concentration": self.concentration,
            "landmarks": LANDMARKS,
            "truth": self.truth,
            "recovery": {name: recovery.as_json() for name, recovery in self.recovery().items()},
        }


def count_passes(num_parts: int) -> int:
    """Count the forward passes of :func:`second_differences` for a batch."""
    return 1 + num_parts + num_parts * (num_parts - 1) // 2


@torch.no_grad()
def second_differences(
    model: Ranker, inputs: Sequence[Tensor], parts: Sequence[Part], advance: Callable[[int], None] = lambda done: None
) -> Tensor:
    r"""Measure how much the effect of one part of the input depends on another part.

    .. math:: I_{st} = \frac{1}{B} \sum_x \bigl(f(x) - f(x_{s'}) - f(x_{t'}) + f(x_{s't'})\bigr)^2

    f is the logit of the first task and :math:`x_{s'}` is x with part s from the row before. A sum of functions of
    single parts gives 0. This is the numerator of the H statistic (Friedman and Popescu, 2008), taken at pairs of rows
    in place of means over all rows.

    Args:
        model: the model.
        inputs: what ``model.embed`` returns for a batch of at least two rows.
        parts: P parts of the input.
        advance: gets the number of forward passes that ended.

    Shape:
        - output: ``(P, P)``, symmetric, zero on the diagonal
    """
    embedded, *histories = inputs

    def score(*swapped: int) -> Tensor:
        changed, changed_histories = embedded.clone(), list(histories)
        for index in swapped:
            columns, history = list(parts[index].columns), parts[index].history
            changed[:, columns] = embedded.roll(1, 0)[:, columns]
            if history is not None:
                for place in (2 * history, 2 * history + 1):  # events and lengths
                    changed_histories[place] = histories[place].roll(1, 0)
        advance(1)
        return model.score(changed, *changed_histories)[:, 0].double()

    before, single = score(), [score(index) for index in range(len(parts))]
    strengths = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for s, t in combinations(range(len(parts)), 2):
        difference = before - single[s] - single[t] + score(s, t)
        strengths[s, t] = strengths[t, s] = difference.square().mean()
    return strengths


def mixing_strengths(layers: Sequence[LearnedMixing], num_tokens: int) -> Tensor:
    r"""Measure how strongly learned matrices bring tokens together.

    .. math:: A_l[s, t] = \frac{T}{N} \sum_{i \in s, j \in t} |W_l[i, j]|, \qquad
              R = \prod_l \tfrac{1}{2} (I + A_l), \qquad S = R^\top R

    Blocks of a token are summed, because the FFN of a token mixes them; the residual path keeps a token; two tokens
    meet where both end up in one. A block that lies in two tokens counts for each by its width. S is divided by its
    value for flat matrices, so 1 is the strength of a mixing that prefers no pair.

    Shape:
        - output: ``(T, T)``, symmetric
    """
    mixed = torch.stack([_between_tokens(layer.between().double(), num_tokens) for layer in layers])
    flat = torch.full_like(mixed, 1 / num_tokens)
    return _meetings(mixed) / _meetings(flat)


def _between_tokens(between: Tensor, num_tokens: int) -> Tensor:
    """Sum the absolute weights between the blocks of tokens, ``(N, N)`` to ``(T, T)``."""
    num_blocks = len(between)
    edges = torch.arange(num_blocks + 1, dtype=torch.float64) * num_tokens / num_blocks
    token = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    inside = (torch.minimum(edges[1:], token + 1) - torch.maximum(edges[:-1], token)).clamp(min=0)
    share = inside / inside.sum(0)  # of a block in every token
    return share @ between.abs() @ share.T * num_tokens / num_blocks


def _meetings(mixed: Tensor) -> Tensor:
    reach = torch.eye(mixed.shape[1], dtype=mixed.dtype)
    for layer in mixed:
        reach = (reach + layer @ reach) / 2
    return reach.T @ reach


def concentration(strengths: Tensor) -> float:
    """Compute the share of the interaction in the strongest tenth of the pairs, at least one pair.

    Example:
        >>> concentration(torch.ones(5, 5))
        0.1
    """
    pairs = _pairs(strengths).sort(descending=True).values
    top = max(1, round(TOP * len(pairs)))
    return (pairs[:top].sum() / pairs.sum().clamp(min=1e-300)).item()


def recovery(strengths: Tensor, truth: Sequence[Pair]) -> Recovery:
    """Compare strengths ``(P, P)`` with the pairs that truly interact."""
    true = torch.zeros_like(strengths)
    for s, t in truth:
        true[min(s, t), max(s, t)] = 1
    values, labels = _pairs(strengths), _pairs(true)
    count = int(labels.sum())
    strongest = values.argsort(descending=True)[:count]
    return Recovery(auc(values, labels), labels[strongest].mean().item(), count / len(labels))


def _pairs(strengths: Tensor) -> Tensor:
    """The entries above the diagonal, as one vector."""
    first, second = torch.triu_indices(len(strengths), len(strengths), offset=1)
    return strengths[first, second].double()
