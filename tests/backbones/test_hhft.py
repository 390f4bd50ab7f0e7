"""HHFT: heterogeneous blocks and one of composite projections on top."""

from typing import Any

import pytest
import torch
from naive_attention import assert_equal_with_gradients, attend, own, own_ffn, post, scrambled
from torch import Tensor, nn

from unimixer.backbones import HHFT, HeteroAttention, HiFormer, count_parameters
from unimixer.errors import UnimixerError

T, D, H = 3, 4, 2
SMALL: dict[str, Any] = {"num_tokens": T, "token_dim": D, "num_heads": H, "hidden_dim": 5}


def projected(x: Tensor, local: nn.Module) -> Tensor:
    """By a matrix of the token's own, or by one of all tokens together."""
    weights = [parameter for _, parameter in local.named_parameters()]
    if weights[0].dim() == 3:
        return own(x, weights[0])
    product = weights[0] if len(weights) == 1 else weights[1] @ weights[0]
    return torch.stack([(product @ torch.cat(list(row))).reshape(-1, D) for row in x])


def attention(sublayer: nn.Module, x: Tensor) -> Tensor:
    names = ("mixing.global_.query", "mixing.global_.key", "mixing.local")
    q, k, v = (projected(x, sublayer.get_submodule(name)) for name in names)
    return own(attend(q, k, v, heads=H, scale=(D / H) ** -0.5), sublayer.get_parameter("output.weight"))


@pytest.mark.parametrize("options", [{"rank": 3}, {"rank": 3, "value_rank": 2}, {"rank": None}])
def test_hhft_equals_its_equations(options: dict[str, Any]) -> None:
    backbone = scrambled(HHFT(**SMALL, **options, num_blocks=1))
    stack = backbone.get_submodule("stack")

    def naive(x: Tensor) -> Tensor:
        def sublayer(index: int, y: Tensor) -> Tensor:
            module = stack.get_submodule(f"sublayers.{index}")
            return own_ffn(y, module) if index % 2 else attention(module, y)

        return post(x, stack, [lambda y, index=index: sublayer(index, y) for index in range(4)])

    assert_equal_with_gradients(backbone, naive)


def test_it_is_a_hiformer_block_on_heterogeneous_blocks() -> None:
    backbone = HHFT(**SMALL, rank=3)
    below, top = HeteroAttention(**SMALL), HiFormer(**SMALL, rank=3, num_blocks=1)
    state = backbone.state_dict()
    below.load_state_dict({name: state[name] for name in below.state_dict()})
    top.load_state_dict({n: state[n.replace("s.0.", "s.4.").replace("s.1.", "s.5.")] for n in top.state_dict()})
    x = torch.randn(4, T, D)
    torch.testing.assert_close(backbone(x), top(below(x)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rank": None, "num_blocks": 1},
        {"rank": 3, "value_rank": 5, "residual": "pre", "ffn": "swiglu", "norm": "rms"},
        {"residual": "siamese", "hidden_dim": 7},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((3, 16), (1, 4)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        assert HHFT.formula(**arguments) == count_parameters(HHFT(**arguments))


def test_its_size_is_that_of_its_two_parts() -> None:
    options = {"num_tokens": 5, "token_dim": 8, "residual": "post"}
    parts = HeteroAttention.formula(**options, num_blocks=3) + HiFormer.formula(**options, num_blocks=1, rank=6)
    assert HHFT.formula(**options, num_blocks=3, rank=6) == parts


def test_patterns_are_those_of_both_parts() -> None:
    local, between = HHFT(**SMALL, rank=3).patterns()
    assert local == "linear, own for every block; linear of all blocks together, low rank"
    assert between.startswith(
        "softmax attention, projections own for every block; softmax attention, projections linear"
    )


def test_mistakes_are_answered_with_the_way_out() -> None:
    with pytest.raises(UnimixerError, match=r"token_dim=19 must be divisible by num_heads=2; .* is 18 or 20"):
        HHFT(**{**SMALL, "token_dim": 19})
    with pytest.raises(UnimixerError, match="num_blocks=0 must be greater than 0"):
        HHFT(**SMALL, num_blocks=0)
    with pytest.raises(UnimixerError, match="value_rank=0 must be greater than 0"):
        HHFT(**SMALL, value_rank=0)
