"""Plain Transformer: its equations, its symmetry, its size."""

from typing import Any

import pytest
import torch
from naive_attention import assert_equal_with_gradients, attend, gelu, post, pre, scrambled
from torch import Tensor, nn

from unimixer.backbones import Transformer, build_backbone, count_parameters
from unimixer.errors import UnimixerError

T, D, H = 3, 4, 2


def attention(sublayer: nn.Module, x: Tensor) -> Tensor:
    q, k, v, o = (
        sublayer.get_parameter(f"{name}.weight")
        for name in ("mixing.global_.query", "mixing.global_.key", "mixing.local", "output")
    )
    return attend(x @ q, x @ k, x @ v, heads=H, scale=(D / H) ** -0.5) @ o


def ffn(sublayer: nn.Module, x: Tensor) -> Tensor:
    first, second = sublayer.get_submodule("0"), sublayer.get_submodule("2")
    hidden = gelu(x @ first.get_parameter("weight").T + first.get_parameter("bias"))
    return hidden @ second.get_parameter("weight").T + second.get_parameter("bias")


@pytest.mark.parametrize("residual", ["pre", "post"])
def test_transformer_equals_its_equations(residual: str) -> None:
    backbone = scrambled(Transformer(num_tokens=T, token_dim=D, num_heads=H, hidden_dim=5, residual=residual))
    stack = backbone.get_submodule("stack")

    def naive(x: Tensor) -> Tensor:
        functions = [
            lambda y, index=index: (ffn if index % 2 else attention)(stack.get_submodule(f"sublayers.{index}"), y)
            for index in range(4)
        ]
        return (pre if residual == "pre" else post)(x, stack, functions)

    assert_equal_with_gradients(backbone, naive)


def test_permuted_tokens_give_permuted_outputs() -> None:
    backbone, x, order = Transformer(num_tokens=5, token_dim=8), torch.randn(2, 5, 8), torch.randperm(5)
    torch.testing.assert_close(backbone(x[:, order]), backbone(x)[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"residual": "post", "norm": "rms", "num_blocks": 3}, {"residual": "siamese", "hidden_dim": 7}],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((3, 16), (1, 4)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        assert Transformer.formula(**arguments) == count_parameters(Transformer(**arguments))


def test_a_size_worked_out_by_hand() -> None:
    # one block: 4 * 4 * 4 of attention, 4 * 5 + 5 + 5 * 4 + 4 of the FFN, three norms of 8; tokens have no part in it
    for num_tokens in (2, 9):
        size = Transformer.formula(num_tokens=num_tokens, token_dim=4, num_blocks=1, hidden_dim=5)
        assert size == 64 + 49 + 24


def test_patterns_are_those_of_self_attention() -> None:
    local, between = Transformer(num_tokens=T, token_dim=D).patterns()
    assert (local, between) == ("linear, shared", "softmax attention, shared projections")


def test_mistakes_are_answered_with_the_way_out() -> None:
    with pytest.raises(UnimixerError, match=r"token_dim=18 must be divisible by num_heads=4; .* is 16 or 20"):
        Transformer(num_tokens=T, token_dim=18)
    with pytest.raises(UnimixerError, match="num_heads=0 must be greater than 0"):
        Transformer(num_tokens=T, token_dim=16, num_heads=0)
    with pytest.raises(UnimixerError, match=r"unknown residual 'prae'; did you mean 'pre'\?"):
        build_backbone("transformer", residual="prae")
