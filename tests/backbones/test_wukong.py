import re
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.backbones import Wukong, count_parameters
from unimixer.errors import UnimixerError
from unimixer.mixing import Compression

T, D, B = 5, 6, 3
SMALL: dict[str, Any] = {"num_projections": 3, "hidden_dims": (9, 8), "head_dims": (7, 4), "num_layers": 2}
OPTIONS: list[dict[str, Any]] = [
    {"num_factorized": 2, "num_linear": 2},
    {"num_factorized": 2, "num_linear": 3},  # as many rows as tokens: no residual matrix anywhere
    {"num_factorized": 3, "num_linear": 1, "fm": "full"},
    {"num_factorized": 2, "num_linear": 2, "fm": "attentive", "num_compressed": 2, "attentive_dims": (5,)},
    {"num_factorized": 2, "num_linear": 2, "pooling": "mean", "hidden_dims": (), "head_dims": ()},
    {"num_factorized": 1, "num_linear": 3, "num_layers": 3, "fm": "attentive", "attentive_dims": ()},
]


def norm(vector: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * weight + bias


def network(x: Tensor, state: dict[str, Tensor], name: str, *, last: bool) -> Tensor:
    """Linear layers with ReLU between them, numbered as in the state; ``last``: also after the last one."""
    numbers = sorted(int(key.split(".")[-2]) for key in state if re.fullmatch(rf"{re.escape(name)}\.\d+\.weight", key))
    for number in numbers:
        x = state[f"{name}.{number}.weight"] @ x + state[f"{name}.{number}.bias"]
        x = x if number == numbers[-1] and not last else x.clamp(min=0)
    return x


def textbook(state: dict[str, Tensor], x: Tensor, options: dict[str, Any]) -> Tensor:
    """One example by the paper's equations, row by row."""
    for number in range(options["num_layers"]):
        s = {k.removeprefix(f"layers.{number}."): v for k, v in state.items() if k.startswith(f"layers.{number}.")}
        rows = list(x)
        interactions = torch.stack([torch.stack([(a * b).sum() for b in rows]) for a in rows])  # X X^T
        kind = options.get("fm", "optimized")
        if kind == "optimized":
            interactions = interactions @ s["factorization.mixing.local.values"]
        elif kind == "attentive":
            weights = s["factorization.mixing.local.compression"]
            compressed = torch.cat([sum(w * row for w, row in zip(ws, rows, strict=True)) for ws in weights])
            y = network(compressed, s, "factorization.mixing.local.network", last=False)
            interactions = interactions @ y.view(len(rows), -1)
        hidden = norm(interactions.flatten(), s["factorization.norm.weight"], s["factorization.norm.bias"])
        hidden = network(hidden, s, "factorization.hidden", last=True)
        made = (s["factorization.output.weight"] @ hidden + s["factorization.output.bias"]).view(-1, D)
        compressed_rows = [
            sum(w * row for w, row in zip(ws, rows, strict=True)) for ws in s["compression.global_.weight"]
        ]
        joined = [*made, *compressed_rows]
        if "residual.global_.weight" in s:
            rows = [sum(w * row for w, row in zip(ws, rows, strict=True)) for ws in s["residual.global_.weight"]]
        assert len(rows) == len(joined)
        added = [a + b for a, b in zip(joined, rows, strict=True)]
        x = torch.stack([norm(row, s["norm.weight"], s["norm.bias"]) for row in added])
    pooled = x.mean(0) if options.get("pooling") == "mean" else x.flatten()
    return network(pooled, state, "head", last=True)


@pytest.mark.parametrize("options", OPTIONS)
def test_wukong_equals_its_equations(options: dict[str, Any]) -> None:
    options = {**SMALL, **options}
    backbone = Wukong(num_tokens=T, token_dim=D, **options).double()
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
    arguments = {"num_tokens": T, "token_dim": D, **SMALL, **options}
    assert Wukong.formula(**arguments) == count_parameters(Wukong(**arguments))
    defaults = {"num_tokens": 20, "token_dim": 16, "fm": arguments.get("fm", "optimized")}
    assert Wukong.formula(**defaults) == count_parameters(Wukong(**defaults))


def test_weights_of_a_layer_are_those_that_the_paper_counts() -> None:
    n, d, n_f, n_l, k, h = 10, 8, 3, 4, 5, 32
    backbone = Wukong(
        num_tokens=n,
        token_dim=d,
        num_layers=1,
        num_factorized=n_f,
        num_linear=n_l,
        num_projections=k,
        hidden_dims=(h,) * 3,
        head_dims=(),
    )
    matrices = sum(p.numel() for name, p in backbone.named_parameters() if p.dim() == 2)
    assert matrices == n * k + n_l * n + n * k * h + 2 * h**2 + h * n_f * d + n * (n_f + n_l)


def test_the_residual_is_compressed_only_where_the_number_of_rows_changes() -> None:
    def compressed(**options: Any) -> list[bool]:
        backbone = Wukong(num_tokens=T, token_dim=D, **SMALL, **options)
        return [isinstance(layer.residual, Compression) for layer in backbone.layers]

    assert compressed(num_factorized=2, num_linear=2) == [True, False]
    assert compressed(num_factorized=2, num_linear=3) == [False, False]


def test_patterns_name_both_halves_of_a_layer() -> None:
    local, between = Wukong(num_tokens=T, token_dim=D).patterns()
    assert local == "a learned projection that does not come from X; identity"
    assert between == "Gram matrix X X^T; learned, unconstrained, rectangular"


def test_options_of_the_user_win_over_the_dial() -> None:
    found = Wukong.dimensions(100.4, num_tokens=8)
    assert found == {"token_dim": 32, "hidden_dims": (100, 100), "head_dims": (100,)}
    assert Wukong.dimensions(100.4, num_tokens=8, token_dim=12)["token_dim"] == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fm": "optimised"}, "fm='optimised' is not one of optimized, full, attentive; did you mean 'optimized'?"),
        ({"pooling": "max"}, "pooling='max' is not one of flatten, mean"),
        ({"num_linear": 0}, "num_linear=0 must be greater than 0"),
        ({"num_factorized": 0}, "num_factorized=0 must be greater than 0"),
        ({"num_projections": 0}, "num_projections=0 must be greater than 0"),
        ({"num_layers": 0}, "num_layers=0 must be greater than 0"),
        ({"fm": "attentive", "num_compressed": 0}, "num_compressed=0 must be greater than 0"),
        ({"hidden_dims": (8, 0)}, "hidden_dims=0 must be greater than 0"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        Wukong(num_tokens=T, token_dim=D, **options)
