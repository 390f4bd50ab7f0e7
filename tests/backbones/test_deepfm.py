"""DeepFM: the logits of a factorization machine and of a deep network, added."""

import re
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import nn

from unimixer.backbones import FM, DeepFM, build_backbone, count_parameters, fit_budget
from unimixer.errors import UnimixerError

T, D = 4, 6


def test_a_linear_tower_adds_the_logits_of_both_parts() -> None:
    x = torch.randn(3, T, D, dtype=torch.float64)
    backbone = DeepFM(num_tokens=T, token_dim=D, hidden_dims=(7, 5)).double()
    tower = nn.Linear(backbone.out_dim, 1).double()
    nn.init.ones_(tower.weight[:, :D])
    hidden = x.reshape(3, -1)
    for index in (0, 2):
        layer = backbone.deep[index]
        hidden = (hidden @ layer.get_parameter("weight").T + layer.get_parameter("bias")).clamp(min=0)
    deep = hidden @ tower.weight[0, D:]
    shallow = x[:, :, 0].sum(1) + sum((x[:, i, 1:] * x[:, j, 1:]).sum(1) for i, j in combinations(range(T), 2))
    torch.testing.assert_close(tower(backbone(x)).squeeze(1), tower.bias + shallow + deep)


def test_options_of_the_factorization_machine_reach_it() -> None:
    backbone = DeepFM(num_tokens=T, token_dim=D, hidden_dims=(5,), num_factors=9, first_order=False)
    assert (backbone.fm.out_dim, backbone.out_dim) == (9, 14)
    x = torch.randn(2, T, D)
    alone = FM(num_tokens=T, token_dim=D, num_factors=9, first_order=False)
    alone.load_state_dict(backbone.fm.state_dict())
    assert torch.equal(backbone(x)[:, :9], alone(x))


def test_dropout_and_batch_norm_are_in_the_deep_part_alone() -> None:
    backbone, x = (
        DeepFM(num_tokens=T, token_dim=D, hidden_dims=(64,), batch_norm=True, dropout=0.5),
        torch.randn(8, T, D),
    )
    first, second = backbone(x), backbone(x)
    assert torch.equal(first[:, :D], second[:, :D])
    assert not torch.equal(first[:, D:], second[:, D:])
    assert torch.equal(backbone.eval()(x), backbone(x))


@pytest.mark.parametrize(
    "options",
    [{}, {"hidden_dims": (9, 4)}, {"hidden_dims": (9,), "batch_norm": True}, {"num_factors": 7, "first_order": False}],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert DeepFM.formula(**arguments) == count_parameters(DeepFM(**arguments))


def test_the_dial_grows_the_deep_part() -> None:
    backbone = fit_budget("deepfm", params=200_000, num_tokens=8, num_factors=10)
    assert isinstance(backbone, DeepFM)
    assert backbone.fm.out_dim == 11
    assert count_parameters(backbone) == pytest.approx(200_000, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": ()}, "hidden_dims is empty; without a deep network take backbone 'fm'"),
        ({"token_dim": 1}, "token_dim=1 leaves no factor"),
        ({"dropout": 1.5}, "dropout=1.5 must be at least 0 and less than 1"),
    ],
)
def test_mistakes_name_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone("deepfm", **{"num_tokens": T, "token_dim": D, **options})
