"""MaskNet against its equations, row by row."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.backbones import MaskNet, build_backbone, count_parameters, fit_budget
from unimixer.backbones.masknet import MaskBlock
from unimixer.errors import UnimixerError

T, D = 4, 3


def normalised(row: Tensor) -> Tensor:
    return (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()


def masked(block: MaskBlock, embeddings: Tensor, hidden: Tensor) -> Tensor:
    """One block for one row."""
    up, down = block.mask[0], block.mask[2]
    assert isinstance(up, nn.Linear)
    assert isinstance(down, nn.Linear)
    mask = down.weight @ (up.weight @ embeddings + up.bias).clamp(min=0) + down.bias
    output = normalised(block.linear.weight @ (mask * hidden)) * block.norm.weight + block.norm.bias
    return output.clamp(min=0)


def shaken(backbone: MaskNet) -> MaskNet:
    """In float64, with norms that have scales and shifts of their own."""
    for name, parameter in backbone.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return backbone.double()


@pytest.mark.parametrize("structure", ["serial", "parallel"])
@pytest.mark.parametrize("hidden_dims", [(), (5,)])
def test_the_equations(structure: str, hidden_dims: tuple[int, ...]) -> None:
    x = torch.randn(3, T, D, dtype=torch.float64, requires_grad=True)
    backbone = shaken(
        MaskNet(num_tokens=T, token_dim=D, block_dims=(8, 6), structure=structure, ratio=0.5, hidden_dims=hidden_dims)
    )
    rows = []
    for row in x:
        fields = [normalised(row[t]) * backbone.norm.weight[t] + backbone.norm.bias[t] for t in range(T)]
        hidden, outputs = torch.cat(fields), []
        for block in backbone.blocks:
            assert isinstance(block, MaskBlock)
            outputs.append(masked(block, row.reshape(-1), hidden))
            hidden = outputs[-1] if structure == "serial" else hidden
        result = outputs[-1] if structure == "serial" else torch.cat(outputs)
        for layer in backbone.hidden:
            result = layer(result)
        rows.append(result)
    expected, output = torch.stack(rows), backbone(x)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(output, x, upstream, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_masks_see_the_scale_that_the_norm_takes_away() -> None:
    backbone, x = MaskNet(num_tokens=T, token_dim=D, block_dims=(8,)), torch.randn(2, T, D)
    torch.testing.assert_close(backbone.norm(x), backbone.norm(10 * x), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(backbone(x), backbone(10 * x), atol=1e-2)


def test_the_mask_is_as_wide_inside_as_the_ratio_says() -> None:
    for ratio, first, second in ((1.0, 12, 8), (2.0, 24, 16), (0.25, 3, 2), (0.01, 1, 1)):
        backbone = MaskNet(num_tokens=T, token_dim=D, block_dims=(8, 6), ratio=ratio)
        widths = [block.get_parameter("mask.0.weight").shape[0] for block in backbone.blocks]
        assert widths == [first, second]


def test_parallel_blocks_stand_before_a_network_unless_told_otherwise() -> None:
    options: dict[str, Any] = {"num_tokens": T, "token_dim": D, "block_dims": (8, 6)}
    assert MaskNet(**options).out_dim == 6
    assert MaskNet(**options, structure="parallel").out_dim == 400
    assert MaskNet(**options, structure="parallel", hidden_dims=()).out_dim == 14
    assert MaskNet(**options, hidden_dims=(5,)).out_dim == 5


def test_dropout_rests_in_evaluation() -> None:
    backbone, x = MaskNet(num_tokens=T, token_dim=D, block_dims=(64,), dropout=0.5), torch.randn(4, T, D)
    assert not torch.equal(backbone(x), backbone(x))
    assert torch.equal(backbone.eval()(x), backbone(x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_dims": (8, 6), "ratio": 0.3},
        {"structure": "parallel"},
        {"structure": "parallel", "block_dims": (8, 6, 4), "hidden_dims": (9, 5), "batch_norm": True},
        {"block_dims": (8,), "ratio": 2.5, "hidden_dims": (9,)},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert MaskNet.formula(**arguments) == count_parameters(MaskNet(**arguments))


@pytest.mark.parametrize(
    "options", [{"structure": "parallel"}, {"ratio": 0.1}, {"structure": "parallel", "ratio": 0.1}]
)
def test_a_budget_is_met_with_options(options: dict[str, Any]) -> None:
    backbone = fit_budget("masknet", params=500_000, num_tokens=16, **options)
    assert count_parameters(backbone) == pytest.approx(500_000, rel=0.02)


def test_the_dial_reaches_ratio_1_where_blocks_are_as_wide_as_the_embeddings() -> None:
    assert MaskNet.dimensions(64.0, num_tokens=16, token_dim=16)["ratio"] == 0.25
    assert MaskNet.dimensions(300.0, num_tokens=16, token_dim=16)["ratio"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "paralel"}, "structure='paralel' is not one of serial, parallel; did you mean 'parallel'?"),
        ({"block_dims": ()}, "block_dims is empty; MaskNet needs at least one block"),
        ({"block_dims": (8, 0)}, "block_dims=0 must be greater than 0"),
        ({"ratio": 0.0}, "ratio=0.0 must be greater than 0"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
    ],
)
def test_mistakes_name_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone("masknet", **{"num_tokens": T, "token_dim": D, **options})
