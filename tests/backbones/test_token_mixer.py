"""One stack for every mixing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_backbones import D, T, small, tokens
from torch import Tensor

from unimixer.backbones import RankMixer, TokenMixer, count_parameters, fit_budget
from unimixer.backbones.token_mixer import MIXINGS
from unimixer.errors import UnimixerError
from unimixer.mixing import Sum, TokenMixing

ANY = pytest.mark.parametrize("mixing", list(MIXINGS))


def test_with_the_rule_it_is_rankmixer_to_the_last_bit() -> None:
    options: dict[str, Any] = {"expansion": 2.0, "ffn": "swiglu", "norm": "rms"}
    torch.manual_seed(0)
    expected = RankMixer(num_tokens=T, token_dim=D, **options)
    assert torch.equal(small("token-mixer")(tokens(5)), expected(tokens(5)))


@ANY
def test_a_block_equals_its_equations(mixing: str) -> None:
    backbone = small("token-mixer", mixing=mixing, num_blocks=1).double()
    mix, ffn = (backbone.get_submodule(f"stack.sublayers.{index}") for index in (0, 1))
    x = tokens(3).double()

    def norm(z: Tensor) -> Tensor:
        return z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    s = norm(x + (x.flatten(1).unsqueeze(1) @ mix.mixing_matrix(x).double().mT).view_as(x))  # type: ignore[operator]
    torch.testing.assert_close(backbone(x), norm(s + ffn(s)), atol=1e-5, rtol=1e-5)


def test_sums_start_near_the_rule_and_leave_it_where_their_number_grows() -> None:
    for mixing in ("rule+fm", "rule+attention"):
        part = small("token-mixer", mixing=mixing).get_submodule("stack.sublayers.0")
        assert isinstance(part, Sum)
        x = F.normalize(tokens(50), dim=-1) * D**0.5
        beside = part(x) - TokenMixing(T, D)(x)
        assert 0.001 < beside.detach().std() < 0.4
    assert part.scale.item() == pytest.approx(0.1)


@ANY
@pytest.mark.parametrize("params", [60_000, 800_000])
def test_every_mixing_meets_a_budget_by_its_ffn(mixing: str, params: int) -> None:
    backbone = fit_budget("token-mixer", params=params, num_tokens=16, mixing=mixing)
    assert count_parameters(backbone) == pytest.approx(params, rel=0.02)
    sizes = {"num_tokens": 16, "token_dim": backbone.token_dim, "mixing": mixing}
    hidden = TokenMixer.dimensions(64.0, num_tokens=16, mixing=mixing)["hidden_dim"]
    rule = TokenMixer.dimensions(64.0, num_tokens=16)["hidden_dim"]
    assert hidden == rule if TokenMixer.mixing_parameters(TokenMixer.Options(**sizes)) == 0 else hidden <= rule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": "fm"}, "mixing='fm' is not one of rule, none, random-permutation"),
        ({"num_heads": 2}, "num_heads=2 has no use with mixing='rule'; leave it out, or take mixing 'per-head' or"),
        ({"mixing": "none", "mixing_seed": 1}, "mixing_seed=1 has no use with mixing='none'; leave it out, or take"),
        ({"mixing": "rule+attention", "init": "zero"}, "init='zero' has no use with mixing='rule+attention'"),
        ({"mixing": "per-head", "num_heads": 3}, "token_dim=16 must be divisible by num_heads=3"),
        ({"token_dim": 18}, "token_dim=18 must be divisible by num_tokens=4"),
    ],
)
def test_options_that_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        TokenMixer(**{"num_tokens": T, "token_dim": D, **options})
