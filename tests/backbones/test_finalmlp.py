"""FinalMLP against its equations, row by row."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.backbones import FinalMLP, build_backbone, count_parameters, fit_budget
from unimixer.backbones.finalmlp import FeatureGate
from unimixer.errors import UnimixerError

T, D = 4, 3
SMALL: dict[str, Any] = {"first_dims": (7, 4), "second_dims": (6,), "gate_dims": (5,)}


def network(layers: nn.Module, row: Tensor) -> Tensor:
    for layer in layers.children():
        if isinstance(layer, nn.Linear):
            row = (layer.weight @ row + layer.bias).clamp(min=0)
    return row


def gated(gate: FeatureGate, row: Tensor, context: tuple[int, ...]) -> Tensor:
    seen = torch.cat([row[t] for t in context]) if context else gate.get_parameter("learned")[0]
    logits = gate.output.weight @ network(gate.hidden, seen) + gate.output.bias
    return row.reshape(-1) * 2 / (1 + (-logits).exp())


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize(("first", "second"), [((), ()), ((1,), (0, 3)), ((), (2,))])
def test_a_linear_tower_is_the_equation(num_heads: int, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x = torch.randn(3, T, D, dtype=torch.float64, requires_grad=True)
    backbone = FinalMLP(
        num_tokens=T, token_dim=D, num_heads=num_heads, first_context=first, second_context=second, **SMALL
    ).double()
    tower = nn.Linear(backbone.out_dim, 1).double()
    nn.init.ones_(tower.weight[:, -num_heads:])
    assert isinstance(backbone.first_gate, FeatureGate)
    assert isinstance(backbone.second_gate, FeatureGate)
    rows = []
    for row in x:
        o_1 = network(backbone.first, gated(backbone.first_gate, row, first))
        o_2 = network(backbone.second, gated(backbone.second_gate, row, second))
        logit = tower.bias[0] + tower.weight[0, :4] @ o_1 + tower.weight[0, 4:10] @ o_2
        for h in range(num_heads):
            a, b = 4 // num_heads, 6 // num_heads
            logit = logit + o_1[h * a : h * a + a] @ backbone.heads.weight[h] @ o_2[h * b : h * b + b]
        rows.append(logit)
    expected, logits = torch.stack(rows), tower(backbone(x)).squeeze(1)
    torch.testing.assert_close(logits, expected)
    upstream = torch.randn(3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(logits, x, upstream, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_learned_context_gives_one_gate_to_all_rows_and_tokens_give_each_its_own() -> None:
    x = torch.randn(2, T, D)
    for context, alike in (((), True), ((0,), False)):
        gate = FeatureGate(T, D, hidden_dims=(8,), context=context)
        first, second = (gate(x) / x.flatten(1)).unbind()
        assert torch.allclose(first, second, atol=1e-5) == alike
        assert 0 < first.min() < first.max() < 2


def test_both_streams_have_their_own_gate_and_none_without() -> None:
    x = torch.randn(2, T, D)
    backbone = FinalMLP(num_tokens=T, token_dim=D, **SMALL)
    assert not torch.equal(backbone.first_gate(x), backbone.second_gate(x))
    plain = FinalMLP(num_tokens=T, token_dim=D, gate=False, **SMALL)
    assert torch.equal(plain.first_gate(x), x.flatten(1))
    expected = plain.first(x.flatten(1)), plain.second(x.flatten(1))
    torch.testing.assert_close(plain(x)[:, :10], torch.cat(expected, dim=1))


def test_one_head_is_the_full_bilinear_form_and_heads_are_its_diagonal_blocks() -> None:
    o_1, o_2 = torch.randn(5, 4), torch.randn(5, 6)
    two = FinalMLP(num_tokens=T, token_dim=D, num_heads=2, **SMALL).heads
    full = torch.block_diag(*two.weight)
    torch.testing.assert_close(two(o_1, o_2).sum(1), torch.einsum("bi,ij,bj->b", o_1, full, o_2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_heads": 1, "first_context": (0,), **SMALL},
        {"gate": False, "batch_norm": True, **SMALL},
        {"second_context": (0, 1, 2), **SMALL, "gate_dims": ()},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert FinalMLP.formula(**arguments) == count_parameters(FinalMLP(**arguments))


@pytest.mark.parametrize("options", [{"num_heads": 50}, {"num_heads": 8, "gate": False}, {"first_context": (0, 1)}])
def test_a_budget_is_met_with_options(options: dict[str, Any]) -> None:
    backbone = fit_budget("finalmlp", params=500_000, num_tokens=16, **options)
    assert count_parameters(backbone) == pytest.approx(500_000, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"first_dims": (8, 50), "num_heads": 4},
            "first_dims[-1]=50 must be divisible by num_heads=4; the nearest valid first_dims[-1] is 48 or 52",
        ),
        (
            {"second_dims": (3,)},
            "second_dims[-1]=3 must be divisible by num_heads=2; the nearest valid second_dims[-1] is 2 or 4",
        ),
        ({"second_dims": ()}, "second_dims is empty; a stream needs at least one hidden layer"),
        ({"num_heads": 0}, "num_heads=0 must be greater than 0"),
        ({"first_context": (1, 4)}, "context token 4 does not exist; tokens are 0 to 3"),
        ({"second_context": (-1,)}, "context token -1 does not exist; tokens are 0 to 3"),
        ({"second_context": (1,), "gate": False}, "a context has no use with gate=False"),
    ],
)
def test_mistakes_name_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone("finalmlp", **{"num_tokens": T, "token_dim": D, **options})
