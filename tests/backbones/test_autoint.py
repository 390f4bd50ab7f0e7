import re
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.backbones import AutoInt, count_parameters
from unimixer.errors import UnimixerError

T, D, B = 4, 6, 3
OPTIONS: list[dict[str, Any]] = [
    {"attention_dim": 8},
    {"attention_dim": 8, "scaled": True, "num_heads": 4},
    {"attention_dim": 6, "residual": "identity"},  # no projection at all
    {"attention_dim": 8, "residual": "identity"},  # a projection in the first layer
    {"attention_dim": 8, "residual": "none", "num_heads": 1, "num_layers": 1},
    {"attention_dim": 4, "mlp_hidden_dims": (7, 5)},
]


def textbook(state: dict[str, Tensor], x: Tensor, options: dict[str, Any]) -> Tensor:
    """One example, head by head and field by field."""
    z, heads = x, options.get("num_heads", 2)
    for number in range(options.get("num_layers", 3)):
        w_q, w_k, w_v = (
            state[f"layers.{number}.attention.{name}.weight"] for name in ("global_.query", "global_.key", "local")
        )
        residual = state.get(f"layers.{number}.residual.weight")
        a, output = w_q.shape[1] // heads, []
        for i in range(T):
            parts = []
            for h in range(heads):
                cut = slice(h * a, (h + 1) * a)
                logits = [(z[i] @ w_q[:, cut]) @ (z[j] @ w_k[:, cut]) for j in range(T)]
                logits = [logit / a**0.5 if options.get("scaled") else logit for logit in logits]
                total = sum(logit.exp() for logit in logits)
                parts.append(sum(logits[j].exp() / total * (z[j] @ w_v[:, cut]) for j in range(T)))
            row = torch.cat(parts)
            if residual is not None:
                row = row + residual @ z[i]
            elif options.get("residual") != "none":
                row = row + z[i]
            output.append(row.clamp(min=0))
        z = torch.stack(output)
    deep = x.flatten()
    for number in (0, 2):
        if f"deep.{number}.weight" in state:
            deep = (state[f"deep.{number}.weight"] @ deep + state[f"deep.{number}.bias"]).clamp(min=0)
    return torch.cat([z.flatten(), deep]) if options.get("mlp_hidden_dims") else z.flatten()


@pytest.mark.parametrize("options", OPTIONS)
def test_autoint_equals_its_equations(options: dict[str, Any]) -> None:
    backbone = AutoInt(num_tokens=T, token_dim=D, **options).double()
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([textbook(dict(backbone.named_parameters()), example, options) for example in x])
    output = backbone(x)
    torch.testing.assert_close(output, expected)
    assert output.shape == (B, backbone.out_dim)
    weights = torch.randn_like(output)
    (found,) = torch.autograd.grad((output * weights).sum(), x)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("options", OPTIONS)
def test_formula_counts_every_parameter(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert AutoInt.formula(**arguments) == count_parameters(AutoInt(**arguments))


def test_a_linear_tower_on_the_concatenation_sums_the_logits_of_both_parts() -> None:
    backbone = AutoInt(num_tokens=T, token_dim=D, attention_dim=8, mlp_hidden_dims=(7, 5)).double()
    tower = torch.nn.Linear(backbone.out_dim, 1).double()
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert backbone.deep is not None
    attention_logit = backbone.layers(x).flatten(1) @ tower.weight[:, : T * 8].T
    deep_logit = backbone.deep(x.flatten(1)) @ tower.weight[:, T * 8 :].T
    torch.testing.assert_close(tower(backbone(x)), attention_logit + deep_logit + tower.bias)


def test_order_of_fields_only_moves_the_rows() -> None:
    backbone, x = AutoInt(num_tokens=T, token_dim=D, attention_dim=8), torch.randn(B, T, D)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(backbone.layers(x[:, order]), backbone.layers(x)[:, order])


def test_patterns_are_those_of_self_attention() -> None:
    assert AutoInt(num_tokens=T, token_dim=D).patterns() == (
        "linear, shared",
        "softmax attention, shared projections",
    )


def test_the_dial_keeps_heads_whole() -> None:
    assert AutoInt.dimensions(101.2, num_tokens=8)["attention_dim"] == 102
    assert AutoInt.dimensions(101.2, num_tokens=8, num_heads=8)["attention_dim"] == 104


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attention_dim": 9},
            "attention_dim=9 must be divisible by num_heads=2; the nearest valid attention_dim is 8 or 10",
        ),
        ({"num_heads": 0}, "num_heads=0 must be greater than 0"),
        ({"residual": "project"}, "residual='project' is not one of projected, identity, none"),
        ({"num_layers": 0}, "num_layers=0 must be greater than 0"),
        ({"mlp_hidden_dims": (4, 0)}, "hidden_dims=0 must be greater than 0"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        AutoInt(num_tokens=T, token_dim=D, **options)
