"""The learned mixings as options of the backbones; the defaults give the numbers that they gave before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unimixer.backbones import build_backbone
from unimixer.backbones.registry import backbone_class

NUMBERS = {
    ("unimixer", "rule"): [-0.768477, -1.117351, -0.116747, -0.881674],
    ("unimixer", "random"): [-0.689014, -2.142578, 0.219022, -0.642961],
    ("unimixer-lite", "rule"): [-0.201909, -1.182285, -0.564801, -0.922477],
    ("unimixer-lite", "random"): [-0.663025, -0.6762, 0.418538, 0.809533],
}
"""The first numbers of a token at seed 0, before there were constraints other than Sinkhorn."""
OPTIONS: list[dict[str, Any]] = [
    {"gate": 0.05, "init": "random"},
    {"range_cap": 2.0, "init": "random"},
    {"constraint": "unit-rows", "symmetric": False, "init": "random"},
    {"constraint": "orthogonal", "symmetric": False},
    {"constraint": "free", "symmetric": False, "init": "random"},
    {"constraint": "free", "symmetric": False, "init": "orthogonal", "rank": None},
    {"constraint": "permutations", "rank": None},
    {"constraint": "kronecker", "rank": None, "init": "random"},
]


@pytest.mark.parametrize(("name", "init"), NUMBERS)
def test_outputs_of_a_seed_do_not_change(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(name, num_tokens=4, token_dim=16, matrices="blocks", init=init)
    output = model(torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(output[0, 1, :4], torch.tensor(NUMBERS[name, init]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["unimixer", "unimixer-lite"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_constraints_are_options_whose_parameters_the_formula_counts(name: str, options: dict[str, Any]) -> None:
    options, sizes = {"matrices": "blocks", **options}, {"num_tokens": 8, "token_dim": 32}
    count = sum(p.numel() for p in build_backbone(name, **sizes, **options).parameters())
    assert count == backbone_class(name).formula(**sizes, **options)
    with torch.device("meta"):
        assert all(p.is_meta for p in build_backbone(name, **sizes, **options).parameters())
    wide = backbone_class(name).dimensions(100, num_tokens=8, **options)
    build_backbone(name, num_tokens=8, **wide, **options)
