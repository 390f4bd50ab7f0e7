"""Sequences to one vector: against loops, and the same alone as among longer ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.features.sequence import SmallTransformer, TargetAttention, owners

WIDTH, MATCHED = 6, [0, 1, 4]


def case(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Events, offsets and targets."""
    generator = torch.Generator().manual_seed(seed)
    events = torch.randn(sum(lengths), WIDTH, generator=generator)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return events, offsets, torch.randn(len(lengths), len(MATCHED), generator=generator)


def build(kind: type[nn.Module], max_length: int = 5) -> nn.Module:
    torch.manual_seed(0)
    module = kind(WIDTH, MATCHED, max_length=max_length)  # type: ignore[call-arg]
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    return module


@given(st.lists(st.integers(0, 4), max_size=6))
def test_owners_repeat_every_row_as_often_as_its_bag_is_long(lengths: list[int]) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    assert owners(offsets, sum(lengths)).tolist() == [row for row, n in enumerate(lengths) for _ in range(n)]


@pytest.mark.parametrize("lengths", [[3, 0, 1, 5], [0, 0], [1]])
def test_target_attention_is_what_a_loop_over_the_events_computes(lengths: list[int]) -> None:
    attention = build(TargetAttention)
    events, offsets, target = case(lengths)
    out = attention(events, offsets, target)
    for row in range(len(lengths)):
        total = torch.zeros(WIDTH)
        for event in events[offsets[row] : offsets[row + 1]]:
            key, query = event[MATCHED], target[row]
            total += attention.score(torch.cat([key, query, key - query, key * query])) * event  # type: ignore[operator]
        torch.testing.assert_close(out[row], total / 5**0.5)
        assert lengths[row] or not out[row].any()


def reference(module: nn.Module, events: Tensor, target: Tensor) -> Tensor:
    """One sequence without any padding: the candidate and its events, positions counted back from the newest."""
    assert isinstance(module, SmallTransformer)
    ages = torch.arange(len(events)).flip(0)
    tokens = torch.cat([module.target(target)[None], events + module.position[ages]])
    encoded: Tensor = module.layer(tokens[None])[0]
    return encoded.mean(0)


@pytest.mark.parametrize("training", [True, False])
def test_the_transformer_gives_a_sequence_what_it_gives_it_without_padding(training: bool) -> None:
    module = build(SmallTransformer).train(training)
    events, offsets, target = case([3, 0, 1, 5])
    with torch.set_grad_enabled(training):
        out = module(events, offsets, target)
        for row in range(4):
            alone = reference(module, events[offsets[row] : offsets[row + 1]], target[row])
            torch.testing.assert_close(out[row], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [TargetAttention, SmallTransformer])
def test_a_sequence_is_encoded_alike_alone_and_among_longer_ones(kind: type[nn.Module]) -> None:
    module = build(kind).eval()
    lengths = [2, 0, 5, 1]
    events, offsets, target = case(lengths)
    together = module(events, offsets, target)
    for row, length in enumerate(lengths):
        own = events[offsets[row] : offsets[row + 1]]
        alone = module(own, torch.tensor([0, length]), target[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [TargetAttention, SmallTransformer])
@pytest.mark.parametrize("lengths", [[3, 0, 5], [0, 0]])
def test_gradients_are_finite_with_empty_sequences(kind: type[nn.Module], lengths: list[int]) -> None:
    module = build(kind)
    events, offsets, target = case(lengths)
    events.requires_grad_()
    module(events, offsets, target).square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert events.grad is not None
    assert events.grad.isfinite().all()


def test_the_order_of_events_matters_to_the_transformer_and_not_to_target_attention() -> None:
    events, offsets, target = case([4])
    for kind, same in ((TargetAttention, True), (SmallTransformer, False)):
        module = build(kind).eval()
        out, reversed_ = module(events, offsets, target), module(events.flip(0), offsets, target)
        assert torch.allclose(out, reversed_, atol=1e-5) is same


def test_the_transformer_needs_a_width_that_its_heads_divide() -> None:
    with pytest.raises(UnimixerError, match="sequence width=5 must be divisible by num_heads=2"):
        SmallTransformer(5, [0], max_length=3)
