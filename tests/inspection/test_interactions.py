"""Interactions of parts of the input: a known one is found, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.inspection.interactions import (
    Interactions,
    concentration,
    count_passes,
    mixing_strengths,
    recovery,
    second_differences,
)
from unimixer.inspection.matrices import LearnedMixing, learned_mixings
from unimixer.inspection.parts import Part
from unimixer.mixing import FullGlobal, IdentityLocal, Unified, UniMixing

PARTS = [Part({"a": 1.0}, (0, 1)), Part({"b": 1.0}, (2,)), Part({"c": 1.0}, (3,)), Part({"clicks": 1.0}, history=0)]


class Scorer:
    """A model whose logit is a function of E and the histories."""

    def __init__(self, logit: Callable[..., Tensor]) -> None:
        self.logit = logit

    def score(self, embedded: Tensor, *histories: Tensor) -> Tensor:
        return torch.stack([self.logit(embedded, *histories), torch.ones(len(embedded))], dim=1)


def differences(logit: Callable[..., Tensor], **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    events = torch.randn(64, 3, 2, generator=generator)
    inputs = (torch.randn(64, 4, generator=generator), events, torch.full((64,), 3))
    return second_differences(Scorer(logit), inputs, PARTS, **options)  # type: ignore[arg-type]


def test_a_product_of_two_parts_is_their_interaction_and_no_other() -> None:
    passes: list[int] = []
    found = differences(lambda e, *_: e[:, 1] * e[:, 3] + e[:, 2].exp() - 4 * e[:, 0], advance=passes.append)
    pair = found[0, 2].item()
    assert pair == found[2, 0].item() > 1
    found[0, 2] = found[2, 0] = 0
    assert found.abs().max().item() < 1e-6
    assert sum(passes) == count_passes(4) == 11


def test_the_strength_is_the_mean_square_of_the_product_of_both_changes() -> None:
    kept: list[Tensor] = []

    def logit(embedded: Tensor, *_: Tensor) -> Tensor:
        kept.append(embedded)
        return embedded[:, 1] * embedded[:, 3]

    found = differences(logit)
    change = kept[0] - kept[0].roll(1, 0)
    expected = (change[:, 1] * change[:, 3]).double().square().mean()
    assert found[0, 2].item() == pytest.approx(expected.item(), rel=1e-5)


def test_events_of_a_history_are_a_part() -> None:
    found = differences(lambda e, events, lengths: e[:, 2] * events.sum((1, 2)) / lengths)
    assert found[1, 3] > 0.1
    found[1, 3] = found[3, 1] = 0
    assert found.abs().max().item() < 1e-6


def free(matrix: Tensor, block_size: int = 2) -> LearnedMixing:
    mixing = Unified(IdentityLocal(len(matrix), block_size), FullGlobal(len(matrix)))
    (layer,) = learned_mixings(mixing)
    with torch.no_grad():
        next(mixing.global_.parameters()).copy_(matrix)
    assert torch.equal(layer.between(), matrix)
    return layer


def test_a_flat_matrix_has_strength_one_and_one_that_keeps_tokens_apart_zero() -> None:
    flat = mixing_strengths([free(torch.full((8, 8), 1 / 8))] * 2, num_tokens=4)
    torch.testing.assert_close(flat, torch.ones(4, 4, dtype=torch.float64))
    apart = torch.block_diag(*[torch.full((2, 2), 0.5)] * 4)
    assert torch.equal(mixing_strengths([free(apart)], num_tokens=4).fill_diagonal_(0), torch.zeros(4, 4).double())


def test_strengths_by_hand() -> None:
    # R = (I + swap) / 2 is 1/2 everywhere, hence S = 1/2; flat: R = [3, 1; 1, 3] / 4, hence S = [5, 3; 3, 5] / 8
    swapped = mixing_strengths([free(torch.eye(2).flip(0))], num_tokens=2)
    torch.testing.assert_close(swapped, torch.tensor([[4 / 5, 4 / 3], [4 / 3, 4 / 5]]).double())
    signed = mixing_strengths([free(-torch.eye(2).flip(0))], num_tokens=2)
    assert torch.equal(signed, swapped)


def test_a_block_that_lies_in_two_tokens_counts_for_both() -> None:
    # three blocks, two tokens: the middle block is half of each; the matrix keeps blocks, so only it joins them
    strengths = mixing_strengths([free(torch.eye(3))], num_tokens=2)
    reach = (torch.eye(2) + torch.tensor([[5 / 6, 1 / 6], [1 / 6, 5 / 6]])) / 2
    flat = (torch.eye(2) + torch.full((2, 2), 1 / 2)) / 2
    torch.testing.assert_close(strengths, ((reach.T @ reach) / (flat.T @ flat)).double(), rtol=1e-6, atol=0)


def test_layers_are_composed() -> None:
    first = torch.eye(3)[[1, 0, 2]]  # joins tokens 0 and 1
    second = torch.eye(3)[[0, 2, 1]]  # joins 1 and 2
    strengths = mixing_strengths([free(first), free(second)], num_tokens=3)
    assert strengths[0, 2] > 0
    assert mixing_strengths([free(first)], num_tokens=3)[0, 2] == 0


def test_the_rule_prefers_no_pair_of_tokens() -> None:
    rule = UniMixing(4 * 16, 4, num_heads=4, temperature=0.01)
    strengths = mixing_strengths(learned_mixings(rule), num_tokens=4)
    torch.testing.assert_close(strengths, torch.ones(4, 4, dtype=torch.float64), atol=1e-4, rtol=0)


def symmetric(pairs: dict[tuple[int, int], float], size: int = 5) -> Tensor:
    strengths = torch.zeros(size, size, dtype=torch.float64)
    for (s, t), value in pairs.items():
        strengths[s, t] = strengths[t, s] = value
    return strengths


def test_concentration_is_the_share_of_the_strongest_tenth() -> None:
    assert concentration(symmetric({(0, 1): 3.0, (2, 4): 1.0})) == 0.75  # one of ten pairs
    assert concentration(torch.zeros(5, 5)) == 0
    assert concentration(symmetric({(0, 1): 2.0}, size=2)) == 1


def test_recovery_by_hand() -> None:
    strengths = symmetric({(0, 1): 3.0, (2, 4): 2.0, (1, 2): 1.0})
    found = recovery(strengths, [(1, 0), (1, 2)])
    assert found.precision == 0.5
    assert found.chance == 0.2
    assert found.auc == pytest.approx(15 / 16)  # (0, 1) above all 8 others, (1, 2) below one of them
    assert recovery(torch.ones(5, 5), [(0, 1)]).auc == 0.5


def test_the_truth_is_compared_where_some_pairs_interact_and_others_do_not() -> None:
    parts = [Part({name: 1.0}, (index,)) for index, name in enumerate("abcde")]
    strengths = symmetric({(0, 1): 3.0, (2, 4): 1.0})
    found = Interactions("groups", "click", 10, parts, strengths, None, [(0, 1)])
    assert found.ranked()[:2] == [(0, 1), (2, 4)]
    assert found.recovery()["model"].auc == 1
    assert "AUC 1.000 (.5 by chance), precision 100% (10% by chance)" in found.sentences()[1]
    assert "the strongest tenth of the pairs holds 75% of the interaction" in found.sentences()[0]
    everything = Interactions("groups", "click", 10, parts, strengths, None, found.ranked())
    assert everything.recovery() == {}
    assert math.isclose(sum(map(sum, everything.as_json()["model"])), 8.0)
