import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.backbones import RankElastor, count_parameters
from unimixer.errors import UnimixerError

T, D, B = 4, 5, 3
OPTIONS: list[dict[str, Any]] = [
    {},
    {"mixing": "paper", "ffn": "paper"},
    {"mixing": "paper", "num_layers": 1},
    {"ffn": "paper", "hidden_dim": 4},
    {"ffn_dims": (8, 6), "expansion": 1.5},  # code: stacked gates with projections between them
    {"ffn_dims": (5, 7, 7), "hidden_dim": 3, "num_layers": 1},
]
State = dict[str, Tensor]


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * gain


def layer_norm(x: Tensor, state: State) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * state["norm.weight"] + state["norm.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mix(x: Tensor, s: State, reading: str) -> Tensor:
    weight, length = s["mixing.global_.weight"], T * D
    if reading == "paper":
        mixed = ((weight + torch.eye(length)) @ x.flatten()).view(T, D)
        return torch.stack([layer_norm(row, s) for row in mixed])
    flat = rms(x.flatten(), s["pre_norm.weight"])
    mixed = x + (weight @ flat).view(T, D) + s["bias"]
    return torch.stack([rms(row, s["norm.weight"]) for row in mixed])


def gate(m: Tensor, s: State, name: str, t: int, *, code: bool) -> Tensor:
    """One gated layer of one token, the four (three) maps of its input apart."""
    up, down = s[f"{name}up.weight"][t], s[f"{name}down.weight"][t]
    width, hidden = down.shape[1], down.shape[0]
    maps = m @ up + (s[f"{name}up.bias"][t] if code else 0)
    parts = list(maps.split([hidden] * (3 if code else 2) + [width]))
    linear = parts.pop()
    if not code:
        first, second = parts
        return (gelu(first) * second) @ down + linear
    skip, first, second = parts
    return ((skip + gelu(first)) * second) @ down + s[f"{name}down.bias"][t] + linear


def ffn(x: Tensor, s: State, reading: str, ffn_dims: tuple[int, ...]) -> Tensor:
    if reading == "paper":
        return torch.stack([gate(x[t], s, "", t, code=False) for t in range(T)])
    output = []
    for t in range(T):
        h, number, width = x[t], 0, D
        for out in ffn_dims:
            h = rms(h, s[f"layers.{number}.weight"][t])
            h = gate(h, s, f"layers.{number + 1}.", t, code=True)
            number += 2
            if out != width:
                h = h @ s[f"layers.{number}.weight"][t] + s[f"layers.{number}.bias"][t]
                number, width = number + 1, out
        output.append(x[t] + h @ s[f"layers.{number}.weight"][t] + s[f"layers.{number}.bias"][t])
    return torch.stack(output)


def textbook(state: State, x: Tensor, options: dict[str, Any]) -> Tensor:
    for number in range(0, 2 * options.get("num_layers", 2), 2):
        halves = [
            {k.removeprefix(f"layers.{i}."): v for k, v in state.items() if k.startswith(f"layers.{i}.")}
            for i in (number, number + 1)
        ]
        x = mix(x, halves[0], options.get("mixing", "code"))
        x = ffn(x, halves[1], options.get("ffn", "code"), options.get("ffn_dims", (D,)))
    return x


@pytest.mark.parametrize("options", OPTIONS)
def test_rankelastor_equals_its_equations(options: dict[str, Any]) -> None:
    backbone = RankElastor(num_tokens=T, token_dim=D, **options).double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # norms must not be trivial
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([textbook(dict(backbone.named_parameters()), example, options) for example in x])
    output = backbone(x)
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(output)
    (found,) = torch.autograd.grad((output * weights).sum(), x)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("options", OPTIONS)
def test_formula_counts_every_parameter(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert RankElastor.formula(**arguments) == count_parameters(RankElastor(**arguments))
    assert RankElastor.formula(**options) == count_parameters(RankElastor(**options))


def test_the_matrix_takes_the_square_of_tokens_times_width() -> None:
    backbone = RankElastor(num_tokens=15, token_dim=26, num_layers=1)
    assert backbone.get_parameter("layers.0.mixing.global_.weight").numel() == (15 * 26) ** 2


def test_every_token_starts_by_the_fan_in_of_its_own_weights() -> None:
    backbone = RankElastor(num_tokens=50, token_dim=16, num_layers=1, ffn="paper")
    weight = backbone.get_parameter("layers.1.up.weight")
    assert weight.abs().max().item() == pytest.approx(16**-0.5, rel=0.01)


def test_patterns_say_full_mixing() -> None:
    assert RankElastor(num_tokens=T, token_dim=D).patterns() == ("identity", "learned, unconstrained")


def test_the_hidden_width_makes_up_for_whole_numbers() -> None:
    exact = RankElastor.dimensions(24.0, num_tokens=16)
    assert exact["token_dim"] == 24
    assert exact["hidden_dim"] == 3 * 24
    assert RankElastor.dimensions(24.9, num_tokens=16)["token_dim"] == 24
    assert RankElastor.dimensions(24.9, num_tokens=16)["hidden_dim"] > exact["hidden_dim"]
    assert RankElastor.dimensions(24.9, num_tokens=16, token_dim=16)["token_dim"] == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": "papr"}, "mixing='papr' is not one of code, paper; did you mean 'paper'?"),
        ({"ffn": "swiglu"}, "ffn='swiglu' is not one of code, paper"),
        ({"ffn": "paper", "ffn_dims": (8,)}, "ffn_dims=(8,) needs ffn='code' and at least one width; leave it out"),
        ({"ffn_dims": ()}, "ffn_dims=() needs ffn='code' and at least one width"),
        ({"ffn_dims": (8, 0)}, "ffn_dims=0 must be greater than 0"),
        ({"hidden_dim": 0}, "hidden_dim=0 must be greater than 0"),
        ({"expansion": 0.0}, "expansion=0.0 must be greater than 0"),
        ({"num_layers": 0}, "num_layers=0 must be greater than 0"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        RankElastor(num_tokens=T, token_dim=D, **options)
