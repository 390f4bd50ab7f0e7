"""MTmixAtt: mixing by heads and a dense mixture, against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_backbones import D, T, small, tokens
from torch import Tensor

from unimixer.backbones import MTmixAtt
from unimixer.blocks import TopKMoE
from unimixer.errors import UnimixerError


def test_a_block_equals_its_equations_with_every_expert_at_work() -> None:
    backbone = small("mtmixatt", num_blocks=1, num_heads=2, hidden_dim=12).double()
    mixing: Any = backbone.get_submodule("stack.sublayers.0")
    moe: Any = backbone.get_submodule("stack.sublayers.1")
    x = tokens(3).double()

    def block(row: Tensor) -> Tensor:
        mixed = torch.stack(
            [
                torch.cat(
                    [
                        sum(mixing.global_.weight[h, m, n] * row[n, 8 * h : 8 * h + 8] for n in range(T))
                        for h in range(2)
                    ]
                )
                for m in range(T)
            ]
        )
        s = F.layer_norm(row + mixed, (D,))
        return F.layer_norm(s + moe(s.unsqueeze(0))[0], (D,))

    torch.testing.assert_close(backbone(x), torch.stack([block(row) for row in x]))


def test_all_experts_work_for_every_token() -> None:
    moe = small("mtmixatt").get_submodule("stack.sublayers.1")
    assert isinstance(moe, TopKMoE)
    gates = moe.gates(torch.randn(50, T, 3))
    assert (gates > 0).all()
    torch.testing.assert_close(gates.sum(-1), torch.ones(50, T))
    assert moe.scale == 1.0


def test_another_ffn_has_no_options_of_the_mixture() -> None:
    assert MTmixAtt(num_tokens=T, token_dim=D, ffn="swiglu")(tokens(2)).shape == (2, T, D)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UnimixerError, match="token_dim=16 must be divisible by num_heads=3"):
        MTmixAtt(num_tokens=T, token_dim=D, num_heads=3)
