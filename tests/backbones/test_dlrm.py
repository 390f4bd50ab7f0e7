"""DLRM against loops over pairs."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.backbones import DLRM, build_backbone, count_parameters
from unimixer.errors import UnimixerError

T, D = 4, 5


def network(layers: nn.Module, row: Tensor) -> Tensor:
    for layer in layers.children():
        if isinstance(layer, nn.Linear):
            row = (layer.weight @ row + layer.bias).clamp(min=0)
    return row


def textbook(backbone: DLRM, row: Tensor, *, self_interaction: bool) -> Tensor:
    """The input of the top network for one row (T, D), pair after pair."""
    vectors = list(row)
    beside = row.reshape(-1)
    if backbone.bottom is not None:
        beside = network(backbone.bottom, beside)
        vectors = [beside, *vectors]
    dots = []
    for i in range(len(vectors)):
        for j in range(len(vectors)):
            if j < i or (self_interaction and j == i):
                dots.append(sum(vectors[i][k] * vectors[j][k] for k in range(D)))
    return torch.cat([beside, torch.stack([torch.as_tensor(dot) for dot in dots])])


@pytest.mark.parametrize("bottom", [True, False])
@pytest.mark.parametrize("self_interaction", [True, False])
def test_the_equations(bottom: bool, self_interaction: bool) -> None:
    x = torch.randn(3, T, D, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"bottom": bottom, "self_interaction": self_interaction}
    backbone = DLRM(num_tokens=T, token_dim=D, bottom_dims=(7,), top_dims=(9, 6), **options).double()
    rows = [network(backbone.top, textbook(backbone, row, self_interaction=self_interaction)) for row in x]
    expected, output = torch.stack(rows), backbone(x)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(output, x, upstream, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_every_distinct_pair_stands_once() -> None:
    for bottom, vectors, beside in ((True, T + 1, D), (False, T, T * D)):
        for self_interaction, pairs in ((False, vectors * (vectors - 1) // 2), (True, vectors * (vectors + 1) // 2)):
            options = {"bottom": bottom, "self_interaction": self_interaction}
            backbone = DLRM(num_tokens=T, token_dim=D, top_dims=(), **options)
            assert backbone(torch.zeros(2, T, D)).shape == (2, beside + pairs) == (2, backbone.out_dim)


def test_z_stands_first_and_is_not_negative() -> None:
    backbone, x = DLRM(num_tokens=T, token_dim=D, bottom_dims=(16,), top_dims=()), torch.randn(32, T, D)
    assert backbone.bottom is not None
    assert torch.equal(backbone(x)[:, :D], backbone.bottom(x.flatten(1)))
    assert backbone(x)[:, :D].min() >= 0


def test_dropout_is_in_the_top_network_alone() -> None:
    backbone, x = DLRM(num_tokens=T, token_dim=D, dropout=0.5), torch.randn(4, T, D)
    assert not torch.equal(backbone(x), backbone(x))
    assert torch.equal(backbone.eval()(x), backbone(x))
    assert not any(isinstance(module, nn.Dropout) for module in backbone.bottom or [])


def test_one_token_without_z_has_no_pair() -> None:
    assert DLRM(num_tokens=1, token_dim=D, bottom=False, top_dims=())(torch.ones(2, 1, D)).tolist() == [[1.0] * D] * 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bottom_dims": (), "top_dims": (8,)},
        {"bottom": False, "top_dims": (8, 3)},
        {"self_interaction": True, "batch_norm": True},
        {"bottom": False, "self_interaction": True, "top_dims": ()},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert DLRM.formula(**arguments) == count_parameters(DLRM(**arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_dim": 0}, "token_dim=0 must be greater than 0"),
        ({"top_dims": (8, 0)}, "hidden_dims=0 must be greater than 0"),
        ({"dropout": -0.1}, "dropout=-0.1 must be at least 0 and less than 1"),
        ({"bottom_dim": (8,)}, "unknown option of backbone 'dlrm': 'bottom_dim'; did you mean 'bottom_dims'?"),
    ],
)
def test_mistakes_name_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone("dlrm", **{"num_tokens": T, "token_dim": D, **options})
