"""Mixing through hubs, against its formula."""

from __future__ import annotations

import pytest
import torch
from test_paper_table import attend, normal
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.mixing import HubMixing


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * gain


def test_outputs_and_gradients_equal_the_formula() -> None:
    mixing = HubMixing(num_tokens=3, token_dim=6, num_hubs=4, num_heads=2).double()
    with torch.no_grad():
        for number, parameter in enumerate(mixing.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number + 1))

    def attention(name: str, tokens: list[Tensor], others: list[Tensor]) -> Tensor:
        weights = [mixing.get_parameter(f"{name}.{part}.weight") for part in ("query", "key", "value", "output")]
        queries = [weights[0] @ x for x in tokens]
        keys, values = ([weight @ x for x in others] for weight in weights[1:3])
        return torch.stack([weights[3] @ row for row in attend(queries, keys, values, heads=2)])

    def textbook(x: Tensor) -> Tensor:
        first, _, last = mixing.mean
        hidden = first.weight @ (sum(x) / 3) + first.bias  # type: ignore[operator]
        shift = last.weight @ (hidden * torch.sigmoid(hidden)) + last.bias  # type: ignore[operator]
        hubs = [hub + shift for hub in mixing.hubs]
        read = attention("read", hubs, list(x))
        z = [rms(hub + row, mixing.read_gain) for hub, row in zip(hubs, read, strict=True)]
        talk = attention("talk", z, z)
        z = [rms(hub + row, mixing.talk_gain) for hub, row in zip(z, talk, strict=True)]
        return mixing.scale * attention("write", list(x), z)

    x, leaves = normal(5, 3, 6).requires_grad_(), list(mixing.parameters())
    outputs = mixing(x), torch.stack([textbook(row) for row in x])
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad(output, [x, *leaves], normal(5, 3, 6, seed=99)) for output in outputs]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_tokens_may_be_flat_and_sizes_are_counted() -> None:
    mixing, x = HubMixing(3, 8, num_hubs=5), normal(2, 3, 8).float()
    torch.testing.assert_close(mixing(x.flatten(1)), mixing(x).flatten(1))
    assert sum(p.numel() for p in mixing.parameters()) == HubMixing.num_parameters(8, 5)


def test_permuted_tokens_give_permuted_outputs() -> None:
    mixing, x, order = HubMixing(5, 8), normal(2, 5, 8).float(), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(mixing(x[:, order]), mixing(x)[:, order])


def test_there_is_no_matrix() -> None:
    with pytest.raises(UnimixerError, match="HubMixing has no matrix"):
        HubMixing(3, 8).mixing_matrix(torch.zeros(1, 3, 8))
