"""UniDot: Wukong's layers and the dot products of every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_backbones import D, T, small, tokens
from torch import Tensor

from unimixer.backbones import UniDot, Wukong
from unimixer.errors import UnimixerError


@pytest.mark.parametrize("kind", ["query-key", "gram"])
def test_the_head_gets_the_deep_vector_and_the_products_of_what_enters_every_layer(kind: str) -> None:
    backbone, x = small("unidot", products=kind).double(), tokens(3).double()
    assert isinstance(backbone, UniDot)

    def products(rows: Tensor, layer: int) -> list[Tensor]:
        if kind == "gram":
            return [torch.dot(a, b) / D**0.5 for i, a in enumerate(rows) for b in rows[:i]]
        query, key = (backbone.get_parameter(f"dots.{layer}.{name}.global_.weight") for name in ("query", "key"))
        sums = [[sum(w * row for w, row in zip(ws, rows, strict=True)) for ws in part] for part in (query, key)]
        return [torch.dot(q, k) / D**0.5 for q in sums[0] for k in sums[1]]  # type: ignore[arg-type]

    first = backbone.layers[0](x)
    deep = backbone.head(backbone.layers[1](first).flatten(1))
    beside = [torch.stack(products(a, 0) + products(b, 1)) for a, b in zip(x, first, strict=True)]
    torch.testing.assert_close(backbone(x), torch.cat([deep, torch.stack(beside)], 1))
    assert backbone.out_dim == 12 + (18 if kind == "query-key" else T * (T - 1) // 2 + 8 * 7 // 2)


def test_output_projections_start_at_zero_and_learn() -> None:
    backbone, x = UniDot(num_tokens=T, token_dim=D, hidden_dims=(8,), head_dims=(4,)), tokens(5)
    layer: Any = backbone.layers[0]
    assert torch.equal(layer.factorization(x), torch.zeros(5, 16, D))
    backbone(x).square().sum().backward()
    assert layer.factorization.output.weight.grad.abs().max() > 0
    # at the start a layer is compression and residual alone
    rows = torch.cat([torch.zeros(5, 16, D), layer.compression(x)], 1) + layer.residual(x)
    torch.testing.assert_close(layer(x), torch.nn.functional.layer_norm(rows, (D,)))


def test_with_a_scale_of_one_the_deep_part_is_wukong() -> None:
    options: dict[str, Any] = {"num_tokens": T, "token_dim": D, "hidden_dims": (8,), "head_dims": (4,)}
    torch.manual_seed(0)
    wukong = Wukong(**options)
    torch.manual_seed(0)
    backbone = UniDot(**options, output_scale=1.0, products="gram")
    assert torch.equal(backbone(tokens(3))[:, :4], wukong(tokens(3)))


def test_mistakes_are_named() -> None:
    with pytest.raises(UnimixerError, match="products='user-item' is not one of query-key, gram"):
        UniDot(num_tokens=T, token_dim=D, products="user-item")
    with pytest.raises(UnimixerError, match="num_queries=0 must be greater than 0"):
        UniDot(num_tokens=T, token_dim=D, num_queries=0)
