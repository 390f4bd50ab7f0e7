"""Closed formulas of parameters against counted ones."""

from typing import Any

import pytest
import torch

from unimixer.backbones import MLP, Backbone, DCNv2, RankMixer, count_parameters

CASES: list[tuple[type[Backbone], dict[str, Any]]] = [
    (MLP, {}),
    (MLP, {"hidden_dims": (9, 5)}),
    (MLP, {"hidden_dims": (9,), "batch_norm": True, "dropout": 0.1}),
    (DCNv2, {}),
    (DCNv2, {"num_crosses": 2, "hidden_dims": ()}),
    (DCNv2, {"num_crosses": 4, "cross_rank": 3, "hidden_dims": (9, 5), "batch_norm": True}),
    (DCNv2, {"structure": "stacked", "hidden_dims": (9,)}),
    (RankMixer, {}),
    (RankMixer, {"num_blocks": 3, "expansion": 1.3, "norm": "rms"}),
    (RankMixer, {"residual": "pre", "ffn": "swiglu", "hidden_dim": 7}),
    (RankMixer, {"residual": "siamese", "ffn": "swiglu", "norm": "rms"}),
    (RankMixer, {"residual": "siamese", "num_blocks": 1}),
    (RankMixer, {"ffn": "relu-moe", "ffn_options": {"num_experts": 3, "dtsi": False}}),
    (RankMixer, {"ffn": "topk-moe", "hidden_dim": 11, "ffn_options": {"num_experts": 5, "num_active": 3}}),
]


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_the_formula_counts_the_parameters(cls: type[Backbone], options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((4, 16), (3, 6), (1, 5)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        with torch.device("meta"):
            assert cls.formula(**arguments) == count_parameters(cls(**arguments))


def test_a_cross_network_worked_out_by_hand() -> None:
    # L = 6: one cross 6 * 6 + 6, one layer 6 * 4 + 4
    assert DCNv2.formula(num_tokens=2, token_dim=3, num_crosses=1, hidden_dims=(4,)) == 42 + 28


def test_rankmixers_size_is_that_of_its_ffns() -> None:
    # 2 k L T D^2 at T = 32, D = 1536, L = 2, k = 4: the size that its paper calls 1B
    size = RankMixer.formula(num_tokens=32, token_dim=1536, num_blocks=2, expansion=4.0)
    assert size == pytest.approx(2 * 32 * 2 * 4 * 1536**2, rel=0.01)
