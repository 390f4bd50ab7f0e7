"""Heterogeneous attention: its equations with both widths of values, its size."""

from typing import Any

import pytest
import torch
from naive_attention import assert_equal_with_gradients, attend, own, own_ffn, own_swiglu, post, pre, scrambled
from torch import Tensor, nn

from unimixer.backbones import HeteroAttention, Transformer, count_parameters
from unimixer.errors import UnimixerError

T, D, H = 3, 4, 2


def attention(sublayer: nn.Module, x: Tensor) -> Tensor:
    q, k, v, o = (
        sublayer.get_parameter(f"{name}.weight")
        for name in ("mixing.global_.query", "mixing.global_.key", "mixing.local", "output")
    )
    return own(attend(own(x, q), own(x, k), own(x, v), heads=H, scale=(D / H) ** -0.5), o)


@pytest.mark.parametrize("value_width", ["split", "full"])
@pytest.mark.parametrize(("residual", "ffn"), [("post", "gelu"), ("pre", "swiglu")])
def test_heterogeneous_attention_equals_its_equations(value_width: str, residual: str, ffn: str) -> None:
    backbone = scrambled(
        HeteroAttention(
            num_tokens=T, token_dim=D, num_heads=H, hidden_dim=5, value_width=value_width, residual=residual, ffn=ffn
        )
    )
    stack = backbone.get_submodule("stack")

    def naive(x: Tensor) -> Tensor:
        def sublayer(index: int, y: Tensor) -> Tensor:
            module = stack.get_submodule(f"sublayers.{index}")
            if index % 2:
                return own_ffn(y, module) if ffn == "gelu" else own_swiglu(y, module)
            return attention(module, y)

        functions = [lambda y, index=index: sublayer(index, y) for index in range(4)]
        return (post if residual == "post" else pre)(x, stack, functions)

    assert_equal_with_gradients(backbone, naive)


def test_one_set_of_weights_for_all_tokens_is_a_transformer() -> None:
    hetero = HeteroAttention(num_tokens=T, token_dim=D, num_heads=H, residual="pre")
    plain = Transformer(num_tokens=T, token_dim=D, num_heads=H, residual="pre")
    state = plain.state_dict()
    for name in list(state):
        if "norm" in name:
            continue
        value, new = state.pop(name), name
        if name.startswith("stack.sublayers") and name.split(".")[2] in ("1", "3"):
            value = value.T if name.endswith("weight") else value  # nn.Linear keeps (out, in)
            new = name.replace(".0.", ".up.").replace(".2.", ".down.")
        state[new] = value.expand(T, *value.shape)
    hetero.load_state_dict(state)
    x = torch.randn(5, T, D)
    torch.testing.assert_close(hetero(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"value_width": "full", "ffn": "swiglu"},
        {"residual": "pre", "norm": "rms", "num_blocks": 3, "num_heads": 2},
        {"residual": "siamese", "hidden_dim": 7},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((3, 16), (1, 4)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        assert HeteroAttention.formula(**arguments) == count_parameters(HeteroAttention(**arguments))


def test_attention_has_the_sizes_of_the_sources() -> None:
    for width, per_token in (("split", 4), ("full", 10)):  # 4 D^2, and 2 D^2 + 2 H D^2 at H = 4
        backbone = HeteroAttention(num_tokens=5, token_dim=8, num_blocks=1, value_width=width)
        sublayer = backbone.get_submodule("stack.sublayers.0")
        assert count_parameters(sublayer) == per_token * 5 * 8**2


def test_patterns_are_those_of_heterogeneous_attention() -> None:
    local, between = HeteroAttention(num_tokens=T, token_dim=D).patterns()
    assert local == "linear, own for every block"
    assert between == "softmax attention, projections own for every block"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_dim": 18}, "token_dim=18 must be divisible by num_heads=4; the nearest valid token_dim is 16 or 20"),
        ({"value_width": "fill"}, "value_width='fill' is not one of split, full; did you mean 'full'?"),
        ({"ffn": "relu"}, "ffn='relu' is not one of gelu, swiglu"),
        ({"num_blocks": 0}, "num_blocks=0 must be greater than 0"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message.replace("?", r"\?")):
        HeteroAttention(**{"num_tokens": T, "token_dim": 16, **options})
