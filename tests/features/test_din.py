"""DIN against the loops of its textbook form, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.features.din import DIN, Dice

WIDTH, MATCHED = 6, [0, 1, 4]
LENGTHS = [3, 0, 1, 5]


def case() -> tuple[Tensor, Tensor, Tensor]:
    """Events, offsets and targets."""
    generator = torch.Generator().manual_seed(0)
    events = torch.randn(sum(LENGTHS), WIDTH, generator=generator)
    return events, torch.tensor([0, *LENGTHS]).cumsum(0), torch.randn(len(LENGTHS), len(MATCHED), generator=generator)


def build(activation: str, hidden_dims: tuple[int, ...] = (5, 3)) -> DIN:
    torch.manual_seed(0)
    module = DIN(WIDTH, MATCHED, max_length=5, hidden_dims=hidden_dims, activation=activation)
    for dice in (part for part in module.modules() if isinstance(part, Dice)):
        for tensor in (dice.alpha.data, dice.running_mean, dice.running_var):
            tensor.uniform_(0.1, 0.9)
    return module


def by_loops(module: DIN, events: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
    """Eq. (3): event by event, with the activation unit written out."""
    rows = []
    for row in range(len(target)):
        total = torch.zeros(WIDTH)
        for event in events[offsets[row] : offsets[row + 1]]:
            ad, item = target[row], event[MATCHED]
            hidden = torch.cat([item, ad, item - ad, item * ad])
            for layer in module.score:
                if isinstance(layer, nn.Linear):
                    hidden = layer.weight @ hidden + layer.bias
                elif isinstance(layer, nn.PReLU):
                    hidden = torch.where(hidden > 0, hidden, layer.weight * hidden)
                else:
                    assert isinstance(layer, Dice)
                    p = 1 / (1 + torch.exp(-(hidden - layer.running_mean) / (layer.running_var + 1e-8).sqrt()))
                    hidden = p * hidden + (1 - p) * layer.alpha * hidden
            total = total + hidden * event
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("activation", ["prelu", "dice"])
def test_din_is_what_its_loops_compute_and_so_are_its_gradients(activation: str) -> None:
    module = build(activation).eval()  # where Dice has the averages that the loops read
    inputs = case()
    found = []
    for encode in (module, lambda *given: by_loops(module, *given)):
        events, offsets, target = inputs[0].clone().requires_grad_(), inputs[1], inputs[2].clone().requires_grad_()
        out = encode(events, offsets, target)
        assert not out[1].any()  # the empty history
        weights = torch.arange(out.numel()).view_as(out).cos()
        found.append((out, torch.autograd.grad((out * weights).sum(), [events, target, *module.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0])
    for fast, slow in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_the_weights_of_events_are_not_normalized() -> None:
    module = build("prelu")
    events, _, target = case()
    once = module(events[:3], torch.tensor([0, 3]), target[:1])
    twice = module(events[:3].repeat(2, 1), torch.tensor([0, 6]), target[:1])
    torch.testing.assert_close(twice, 2 * once)  # a stronger interest, not the same mean


def test_dice_reads_the_batch_in_training_and_its_averages_in_evaluation() -> None:
    dice = Dice(2, momentum=0.5)
    with torch.no_grad():
        dice.alpha.fill_(0.5)
    s = torch.tensor([[1.0, -2.0], [3.0, 2.0]])
    # means 2 and 0, deviations 1 and 2: the standardized values are -1 and 1
    low, high = 1 / (1 + torch.tensor(1.0).exp()), 1 / (1 + torch.tensor(-1.0).exp())
    p = torch.stack([low, high]).unsqueeze(1)
    torch.testing.assert_close(dice(s), p * s + (1 - p) * 0.5 * s)
    torch.testing.assert_close(dice.running_mean, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(dice.running_var, torch.tensor([1.0, 2.5]))
    assert torch.equal(dice(s[:1]), dice.eval()(s[:1]))  # a batch of one has no deviation
    torch.testing.assert_close(dice(s)[0, 0], s[0, 0] * 0.75)  # at the mean, half of the way to the slope


@pytest.mark.parametrize("lengths", [[0, 0], [0, 1]])
def test_gradients_of_dice_are_finite_without_events(lengths: list[int]) -> None:
    module = build("dice").train()
    events = torch.randn(sum(lengths), WIDTH, requires_grad=True)
    module(events, torch.tensor([0, *lengths]).cumsum(0), torch.randn(2, 3)).sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in module.buffers())


def test_a_wrong_activation_or_width_is_refused() -> None:
    with pytest.raises(UnimixerError, match="activation='relu' is not one of prelu, dice"):
        DIN(WIDTH, MATCHED, max_length=5, activation="relu")
    with pytest.raises(UnimixerError, match="hidden_dims=0 must be greater than 0"):
        DIN(WIDTH, MATCHED, max_length=5, hidden_dims=(0,))
