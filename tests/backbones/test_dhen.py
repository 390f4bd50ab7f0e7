import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.backbones import DHEN, count_parameters
from unimixer.errors import UnimixerError

T, D, B = 4, 6, 2
SMALL: dict[str, Any] = {"num_outputs": 3, "dot_dims": (7,), "head_dims": (5,)}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"ensemble": "sum", "num_outputs": 4, "num_heads": 2, "attention_hidden_dim": 5},  # rows never change
    {"modules": ("dcn", "linear")},
    {"modules": ("dcn",), "cross_rank": 2, "num_layers": 3},
    {"modules": ("convolution", "dot"), "dot_dims": (), "head_dims": ()},
    {"modules": ("linear", "attention", "convolution", "dot", "dcn"), "ensemble": "sum"},
]
State = dict[str, Tensor]


def below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def norm(row: Tensor, state: State, name: str) -> Tensor:
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    product = state[f"{name}.weight"] @ x
    return product + state[f"{name}.bias"] if f"{name}.bias" in state else product


def compress(x: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([sum(weight[m, n] * x[n] for n in range(len(x))) for m in range(len(weight))])


def attention(x: Tensor, s: State, heads: int) -> Tensor:
    """A Transformer encoder layer on one example."""
    inner = below(s, "sublayers.0.0.")
    q, k, v = (x @ inner[f"{name}.weight"] for name in ("global_.query", "global_.key", "local"))
    a = D // heads
    mixed = []
    for i in range(len(x)):
        parts = []
        for h in range(heads):
            cut = slice(h * a, (h + 1) * a)
            scores = [((q[i, cut] * k[j, cut]).sum() / a**0.5).exp() for j in range(len(x))]
            parts.append(sum(score / sum(scores) * v[j, cut] for j, score in enumerate(scores)))
        mixed.append(torch.cat(parts) @ s["sublayers.0.1.weight"])
    rows = [norm(row + update, s, "norms.0") for row, update in zip(x, mixed, strict=True)]
    updates = [linear(linear(row, s, "sublayers.1.0").clamp(min=0), s, "sublayers.1.2") for row in rows]
    return torch.stack([norm(row + update, s, "norms.1") for row, update in zip(rows, updates, strict=True)])


def cross(x: Tensor, s: State) -> Tensor:
    flat = x.flatten()
    if "cross.linear.weight" in s:
        return (flat * linear(flat, s, "cross.linear") + flat).view(x.shape)
    low = linear(flat, s, "cross.linear.0")
    return (flat * linear(low, s, "cross.linear.1") + flat).view(x.shape)


def convolve(x: Tensor, s: State) -> Tensor:
    padded, kernel = F.pad(x, (2, 2, 2, 2)), s["weight"][0, 0]
    return torch.stack(
        [torch.stack([(padded[t : t + 5, d : d + 5] * kernel).sum() for d in range(D)]) for t in range(len(x))]
    )


def interact(kind: str, x: Tensor, s: State, options: dict[str, Any]) -> Tensor:
    if kind == "dot":
        dots = torch.stack([(a * b).sum() for a in x for b in x])
        hidden = linear(dots, s, "hidden.0").clamp(min=0) if "hidden.0.weight" in s else dots
        return linear(hidden, s, "output").view(-1, D)
    if kind == "linear":
        return compress(x, s["global_.weight"])
    inner = below(s, "0.")
    if kind == "attention":
        x = attention(x, inner, options.get("num_heads", 1))
    else:
        x = cross(x, inner) if kind == "dcn" else convolve(x, inner)
    return compress(x, s["1.global_.weight"])


def textbook(state: State, x: Tensor, options: dict[str, Any]) -> Tensor:
    for number in range(options.get("num_layers", 2)):
        s = below(state, f"layers.{number}.")
        kinds = options.get("modules", ("dot", "attention", "linear"))
        outputs = [interact(kind, x, below(s, f"interactions.{i}."), options) for i, kind in enumerate(kinds)]
        joined = sum(outputs) if options.get("ensemble") == "sum" else torch.cat(outputs)
        assert isinstance(joined, Tensor)
        shortcut = x
        if "shortcut.global_.weight" in s:
            shortcut = compress(x, s["shortcut.global_.weight"])
        else:
            assert len(joined) == len(x)
        x = torch.stack([norm(a + b, s, "norm") for a, b in zip(joined, shortcut, strict=True)])
    return linear(x.flatten(), state, "head.0").clamp(min=0) if "head.0.weight" in state else x.flatten()


@pytest.mark.parametrize("options", OPTIONS)
def test_dhen_equals_its_equations(options: dict[str, Any]) -> None:
    options = {**SMALL, **options}
    backbone = DHEN(num_tokens=T, token_dim=D, **options).double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # norms must not be trivial
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
    for arguments in (
        {"num_tokens": T, "token_dim": D, **SMALL, **options},
        {"num_tokens": 10, "token_dim": 8, **options},
    ):
        assert DHEN.formula(**arguments) == count_parameters(DHEN(**arguments))


def test_a_layer_concatenates_or_sums_what_its_modules_give() -> None:
    concatenated = DHEN(num_tokens=T, token_dim=D, **{**SMALL, "head_dims": ()})
    assert concatenated.out_dim == 3 * 3 * D
    summed = DHEN(num_tokens=T, token_dim=D, ensemble="sum", **{**SMALL, "head_dims": ()})
    assert summed.out_dim == 3 * D


def test_patterns_name_every_mixing_inside() -> None:
    local, between = DHEN(num_tokens=T, token_dim=D).patterns()
    assert local == "the unit matrix; linear, shared; identity"
    assert between == ("Gram matrix X X^T; softmax attention, shared projections; learned, unconstrained, rectangular")
    assert "neighbouring" in DHEN(num_tokens=T, token_dim=D, modules=("convolution",)).patterns()[1]


def test_the_dial_moves_both_networks_and_bounds_a_cross() -> None:
    assert DHEN.dimensions(80.4, num_tokens=8) == {
        "token_dim": 16,
        "dot_dims": (80,),
        "cross_rank": 20,
        "head_dims": (80,),
    }
    assert DHEN.dimensions(80.4, num_tokens=8, token_dim=12)["token_dim"] == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ()}, "modules=() must name at least one of dot, linear, attention, dcn, convolution"),
        ({"modules": "dot"}, "modules='dot' must name at least one"),
        ({"modules": ("dot", "dot")}, "each at most once"),
        ({"modules": ("dot", "atention")}, "unknown module 'atention'; did you mean 'attention'?"),
        ({"ensemble": "mean"}, "ensemble='mean' is not one of concat, sum"),
        ({"num_heads": 4}, "token_dim=6 must be divisible by num_heads=4; the nearest valid token_dim is 4 or 8"),
        ({"num_outputs": 0}, "num_outputs=0 must be greater than 0"),
        ({"attention_hidden_dim": 0}, "attention_hidden_dim=0 must be greater than 0"),
        ({"modules": ("dcn",), "cross_rank": 0}, "cross_rank=0 must be greater than 0"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        DHEN(num_tokens=T, token_dim=D, **options)
