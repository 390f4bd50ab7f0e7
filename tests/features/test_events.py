"""Behaviour sequences as padded events and as tokens: against loops, and alike at every padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_fields import SPEC, batch, build, table
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.features.events import EventEmbedding, EventGroup, SequenceTokens, pad_events, trimmed

GROUPS = (EventGroup("long.one", 6, 5), EventGroup("type", 3, 2))
C, K, D = 4, 3, 8


def ragged(lengths: list[int], width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    events = torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))
    return events, torch.tensor([0, *lengths]).cumsum(0)


def histories(long: list[int], short: list[int]) -> tuple[Tensor, ...]:
    one, other = GROUPS
    first = pad_events(*ragged(long, one.width), one.max_length)
    return *first, *pad_events(*ragged(short, other.width, 1), other.max_length)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    return module


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(1, 4))
def test_padding_keeps_the_newest_events_and_puts_the_newest_first(lengths: list[int], max_length: int) -> None:
    events, offsets = ragged(lengths, 2)
    padded, kept = pad_events(events, offsets, max_length)
    assert padded.shape == (len(lengths), max_length, 2)
    assert kept.tolist() == [min(n, max_length) for n in lengths]
    for row, length in enumerate(kept.tolist()):
        own = events[offsets[row] : offsets[row + 1]].flip(0)
        assert torch.equal(padded[row, :length], own[:max_length])
        assert not padded[row, length:].any()


def test_padding_gives_gradients_to_the_events_that_stay() -> None:
    events, offsets = ragged([3, 0, 1], 2)
    events.requires_grad_()
    pad_events(events, offsets, 2)[0].sum().backward()
    assert events.grad is not None
    assert events.grad[:, 0].tolist() == [0.0, 1.0, 1.0, 1.0]


def test_a_batch_without_events_or_without_rows_is_padded() -> None:
    for lengths in ([0, 0], []):
        padded, kept = pad_events(*ragged(lengths, 2), 4)
        assert padded.shape == (len(lengths), 4, 2)
        assert not kept.any()
        assert trimmed(padded, kept).shape[1] == (1 if lengths else 4)


def test_events_have_one_width_and_know_their_group_and_age() -> None:
    embedding = randomised(EventEmbedding(GROUPS, C))
    inputs = histories([2, 0, 4], [1, 2, 0])
    events, mask = embedding(inputs)
    assert events.shape == (3, 4 + 2, C)  # as long as the longest of the batch
    assert mask.sum(1).tolist() == [3, 2, 4]
    for row in range(3):
        for place in range(6):
            group, age = (0, place) if place < 4 else (1, place - 4)
            padded, lengths = inputs[2 * group : 2 * group + 2]
            assert mask[row, place] == (age < lengths[row])
            expected = embedding.linears[group](padded[row, age]) + embedding.positions[group][age]  # type: ignore
            torch.testing.assert_close(events[row, place], expected)


def test_the_order_of_events_matters_once_places_are_learned() -> None:
    embedding = EventEmbedding(GROUPS[:1], C)
    events, offsets = ragged([4], 6)

    def mean(values: Tensor) -> Tensor:
        return embedding(pad_events(values, offsets, 5)).events.square().mean(1)

    torch.testing.assert_close(mean(events), mean(events.flip(0)))
    randomised(embedding)
    assert not torch.allclose(mean(events), mean(events.flip(0)), atol=1e-3)


def textbook(module: SequenceTokens, inputs: tuple[Tensor, ...]) -> Tensor:
    rows = []
    for row in range(len(inputs[0])):
        tokens: list[Tensor] = []
        for group in range(len(GROUPS)):
            embedding, refine = module.embedding, module.refine[group]
            length = int(inputs[2 * group + 1][row])
            events = [
                refine(embedding.linears[group](inputs[2 * group][row, age]) + embedding.positions[group][age])
                for age in range(length)
            ]
            output = module.outputs[group]
            for k in range(K):
                pooled = torch.zeros(C, dtype=torch.float64)
                exps = [torch.exp(module.queries[group][k] @ event / C**0.5) for event in events]
                for weight, event in zip(exps, events, strict=True):
                    pooled = pooled + weight / sum(exps) * event
                tokens.append(pooled @ output.weight[k] + output.bias[k])  # type: ignore[operator, index]
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def test_sequence_tokens_are_what_loops_over_the_events_compute() -> None:
    module = randomised(SequenceTokens(GROUPS, C, num_tokens=K, token_dim=D)).double()
    inputs = tuple(t.double() if t.is_floating_point() else t for t in histories([2, 0, 5, 1], [0, 0, 2, 1]))
    assert isinstance(module, SequenceTokens)
    tokens = module(inputs)
    assert tokens.shape == (4, 2 * K, D)
    torch.testing.assert_close(tokens, textbook(module, inputs))


def test_an_empty_history_has_learned_tokens() -> None:
    module = randomised(SequenceTokens(GROUPS, C, num_tokens=K, token_dim=D))
    tokens = module(histories([0, 3], [0, 0]))
    first, second = (output.bias for output in module.outputs)  # type: ignore[union-attr]
    assert torch.equal(tokens[0], torch.cat([first, second]))
    assert torch.equal(tokens[1, K:], second)
    assert not torch.allclose(tokens[1, :K], first, atol=1e-2)


@pytest.mark.parametrize("kind", ["events", "tokens"])
def test_rows_are_encoded_alike_alone_and_among_longer_ones(kind: str) -> None:
    build_ = {
        "events": lambda: EventEmbedding(GROUPS, C),
        "tokens": lambda: SequenceTokens(GROUPS, C, num_tokens=K, token_dim=D),
    }
    module = randomised(build_[kind]())
    inputs = histories([2, 0, 5, 1], [0, 0, 2, 1])
    together = module(inputs)
    for row in range(4):
        alone = module(tuple(t[row : row + 1] for t in inputs))
        if kind == "tokens":
            torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)
        else:
            torch.testing.assert_close(alone.events[alone.mask], together.events[row][together.mask[row]])


@pytest.mark.parametrize("long", [[3, 0, 5], [0, 0, 0]])
def test_gradients_are_finite_with_empty_histories(long: list[int]) -> None:
    module = SequenceTokens(GROUPS, C, num_tokens=K, token_dim=D)
    module(histories(long, [0, 2, 1])).square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_a_sequence_needs_a_token() -> None:
    with pytest.raises(UnimixerError, match="sequence_tokens=0 must be greater than 0"):
        SequenceTokens(GROUPS, C, num_tokens=0, token_dim=D)


# ---- from the tables ---------------------------------------------------------


def test_behaviour_leaves_the_vector_of_all_fields_and_comes_as_events() -> None:
    module = build(pool_behaviour=False)
    assert [field.name for field in module.slices] == ["user.id", "age", "tags", "item", "price", "type", "hour"]
    assert module(batch()).shape == (2, module.out_dim) == (2, 7 * 4)
    assert module.event_groups == (EventGroup("items", 8, 4),)
    padded, lengths = module.histories(batch())
    items, hours = table(module, "item"), table(module, "hour")
    newest_first = torch.cat([items[[0, 2, 5]], hours[[1, 4, 0]]], dim=1)
    assert torch.equal(padded, torch.stack([torch.cat([newest_first, torch.zeros(1, 8)]), torch.zeros(4, 8)]))
    assert lengths.tolist() == [3, 0]


def test_without_the_option_nothing_changes() -> None:
    module = build()
    assert module.event_groups == ()
    assert module.histories(batch()) == ()
    other = build(pool_behaviour=False)
    assert module.state_dict().keys() == other.state_dict().keys()


def test_a_group_is_behaviour_if_one_of_its_fields_is() -> None:
    fields = tuple(replace(f, domain="item") if f.name == "past hours" else f for f in SPEC.sequences)
    module = type(build())(replace(SPEC, sequences=fields), pool_behaviour=False)
    assert [group.name for group in module.event_groups] == ["items"]


def test_gradients_of_the_tables_are_row_sparse() -> None:
    module = build(pool_behaviour=False, sparse_gradients=True)
    module.histories(batch())[0].sum().backward()
    weight = module.tables.of_width(4).weight
    assert weight.grad is not None
    assert weight.grad.is_sparse
    first = {name: module.tables.first_row(name) for name in ("item", "hour")}
    expected = [first["item"] + row for row in (5, 2, 0)] + [first["hour"] + row for row in (0, 4, 1)]
    assert sorted(weight.grad.coalesce().indices()[0].tolist()) == sorted(expected)
