"""DIEN against the loops of its textbook form, outputs and gradients, and its auxiliary loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unimixer.blocks import pop_penalties, pop_statistics
from unimixer.errors import UnimixerError
from unimixer.features.dien import DIEN, GRU

WIDTH, MATCHED = 4, [0, 1, 3]
LENGTHS = [3, 0, 1, 5]


def case(lengths: list[int] = LENGTHS) -> tuple[Tensor, Tensor, Tensor]:
    """Events, offsets and targets."""
    generator = torch.Generator().manual_seed(0)
    events = torch.randn(sum(lengths), WIDTH, generator=generator)
    return events, torch.tensor([0, *lengths]).cumsum(0), torch.randn(len(lengths), len(MATCHED), generator=generator)


def build(max_length: int = 5, **options: float) -> DIEN:
    torch.manual_seed(0)
    return DIEN(WIDTH, MATCHED, max_length=max_length, **options)


def states_by_loops(unit: GRU, inputs: Tensor, scales: list[Tensor] | None = None) -> list[Tensor]:
    """Eq. (2)-(5), and (11)-(13) where scales are given, with one matrix a gate."""
    of_input, biases = unit.input.weight.chunk(3), unit.input.bias.chunk(3)
    (w_u, w_r, w_h), (u_u, u_r, u_h), (b_u, b_r, b_h) = of_input, unit.state.weight.chunk(3), biases
    h, states = torch.zeros(WIDTH), []
    for t, i in enumerate(inputs):
        u = torch.sigmoid(w_u @ i + u_u @ h + b_u)
        r = torch.sigmoid(w_r @ i + u_r @ h + b_r)
        fresh = torch.tanh(w_h @ i + r * (u_h @ h) + b_h)
        u = u if scales is None else scales[t] * u
        h = (1 - u) * h + u * fresh
        states.append(h)
    return states


def by_loops(module: DIEN, events: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
    """Row by row without padding: extract the interests, attend to the candidate, evolve."""
    rows = []
    for row in range(len(target)):
        own = events[offsets[row] : offsets[row + 1]]
        if not len(own):
            rows.append(torch.zeros(WIDTH))
            continue
        interests = states_by_loops(module.extractor, own)
        scores = torch.stack([h @ module.match.weight @ target[row] for h in interests])
        rows.append(states_by_loops(module.evolution, torch.stack(interests), list(scores.softmax(0)))[-1])
    return torch.stack(rows)


def test_dien_is_what_its_loops_compute_and_so_are_its_gradients() -> None:
    module, inputs, found = build(), case(), []
    for encode in (module, lambda *given: by_loops(module, *given)):
        events, offsets, target = inputs[0].clone().requires_grad_(), inputs[1], inputs[2].clone().requires_grad_()
        out = encode(events, offsets, target)
        assert not out[1].any()  # the empty history
        weights = torch.arange(out.numel()).view_as(out).cos()
        found.append((out, torch.autograd.grad((out * weights).sum(), [events, target, *module.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0])
    for fast, slow in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


def test_a_gru_whose_scales_are_one_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, torchs = GRU(3, WIDTH), nn.GRU(3, WIDTH, batch_first=True)
    with torch.no_grad():
        # torch orders the gates r, z, n with z = 1 - u, and has a second bias
        for own, other in ((ours.input.weight, torchs.weight_ih_l0), (ours.state.weight, torchs.weight_hh_l0)):
            reset, keep, fresh = other.chunk(3)
            own.copy_(torch.cat([-keep, reset, fresh]))
        torchs.bias_hh_l0.zero_()
        reset, keep, fresh = torchs.bias_ih_l0.chunk(3)
        ours.input.bias.copy_(torch.cat([-keep, reset, fresh]))
    inputs = torch.randn(2, 6, 3)
    torch.testing.assert_close(ours(inputs, torch.ones(2, 6)), torchs(inputs)[0])


def test_a_sequence_is_encoded_alike_alone_among_longer_ones_and_with_a_longer_limit() -> None:
    module = build().eval()
    events, offsets, target = case()
    together = module(events, offsets, target)
    longer = build(max_length=9).eval()
    torch.testing.assert_close(longer(events, offsets, target), together)
    for row, length in enumerate(LENGTHS):
        own = events[offsets[row] : offsets[row + 1]]
        alone = module(own, torch.tensor([0, length]), target[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


def test_the_auxiliary_loss_tells_the_next_event_from_a_drawn_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (events, offsets, target) = build(aux_loss_weight=0.5), case()
    drawn: list[Tensor] = []
    draw = torch.multinomial

    def seen(weights: Tensor, count: int, replacement: bool) -> Tensor:
        drawn.append(draw(weights, count, replacement=replacement))
        return drawn[-1]

    monkeypatch.setattr(torch, "multinomial", seen)
    module(events, offsets, target)
    padded = torch.zeros(len(LENGTHS), 5, WIDTH)  # padding, then the oldest event first
    for row, length in enumerate(LENGTHS):
        padded[row, 5 - length :] = events[offsets[row] : offsets[row + 1]]
    others = padded.flatten(0, 1)[drawn[0]].view(len(LENGTHS), 4, WIDTH)
    total = torch.zeros(())
    for row, length in enumerate(LENGTHS):
        h = states_by_loops(module.extractor, events[offsets[row] : offsets[row + 1]])
        terms = []
        for t in range(length - 1):
            at = 5 - length + t
            real, other = h[t] @ padded[row, at + 1], h[t] @ others[row, at]
            terms.append(-real.sigmoid().log() - (1 - other.sigmoid()).log())
        total = total + (torch.stack(terms).mean() if terms else 0)
    loss = pop_penalties(module)
    assert loss is not None
    torch.testing.assert_close(loss, 0.5 * total / len(LENGTHS))
    torch.testing.assert_close(torch.tensor(pop_statistics(module)["interest_loss"]), total / len(LENGTHS))
    real = {tuple(event.tolist()) for event in events}
    assert {tuple(event.tolist()) for event in others.flatten(0, 1)} <= real  # padding is never drawn


def test_there_is_no_auxiliary_loss_outside_training_at_weight_zero_or_without_a_next_event() -> None:
    inputs = case()
    for module in (build().eval(), build(aux_loss_weight=0), build(max_length=1)):
        module(*inputs)
        assert pop_penalties(module) is None
    with torch.no_grad():
        module = build()
        module(*inputs)
    assert pop_penalties(module) is None


@pytest.mark.parametrize("lengths", [[3, 0, 5], [0, 0]])
def test_gradients_are_finite_with_histories_that_are_empty(lengths: list[int]) -> None:
    module = build()
    events, offsets, target = case(lengths)
    events.requires_grad_()
    out = module(events, offsets, target)
    loss = pop_penalties(module)
    assert loss is not None
    (out.square().sum() + loss).backward()
    for tensor in [events, *module.parameters()]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_the_order_of_events_matters() -> None:
    module, (events, offsets, target) = build(), case([4])
    assert not torch.allclose(module(events, offsets, target), module(events.flip(0), offsets, target), atol=1e-4)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(UnimixerError, match=r"aux_loss_weight=-1 must be 0 or more"):
        build(aux_loss_weight=-1)
