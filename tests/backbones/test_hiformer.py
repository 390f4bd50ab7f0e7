"""HiFormer: composite projections in full and in low rank, and task tokens."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from naive_attention import assert_equal_with_gradients, attend, layer_norm, own, own_ffn, post, pre, scrambled
from torch import Tensor, nn

from unimixer.backbones import HiFormer, count_parameters
from unimixer.errors import UnimixerError

T, D, H = 3, 4, 2
SMALL: dict[str, Any] = {"num_tokens": T, "token_dim": D, "num_heads": H, "hidden_dim": 5, "rank": 3}


def composite(x: Tensor, local: nn.Module) -> Tensor:
    """All tokens in one vector, times one matrix, cut into tokens."""
    weights = [parameter for _, parameter in local.named_parameters()]
    product = weights[0] if len(weights) == 1 else weights[1] @ weights[0]
    rows = [product @ torch.cat(list(row)) for row in x]
    return torch.stack([row.reshape(-1, D) for row in rows])


def attention(sublayer: nn.Module, x: Tensor) -> Tensor:
    names = ("mixing.global_.query", "mixing.global_.key", "mixing.local")
    q, k, v = (composite(x, sublayer.get_submodule(name)) for name in names)
    attended = attend(q, k, v, heads=H, scale=(D / H) ** -0.5)
    output = dict(sublayer.named_parameters()).get("output.weight")
    return attended if output is None else own(attended, output)


def functions(stack: nn.Module, count: int) -> list[Callable[[Tensor], Tensor]]:
    def sublayer(index: int, y: Tensor) -> Tensor:
        module = stack.get_submodule(f"sublayers.{index}")
        return own_ffn(y, module) if index % 2 else attention(module, y)

    return [lambda y, index=index: sublayer(index, y) for index in range(count)]


@pytest.mark.parametrize("options", [{}, {"value_rank": 2}, {"rank": None}, {"rank": None, "value_rank": 2}])
@pytest.mark.parametrize("output_projection", [True, False])
def test_hiformer_equals_its_equations(options: dict[str, Any], output_projection: bool) -> None:
    backbone = scrambled(HiFormer(**{**SMALL, **options}, output_projection=output_projection))
    stack = backbone.get_submodule("stack")
    assert_equal_with_gradients(backbone, lambda x: post(x, stack, functions(stack, 4)))


def test_norms_before_the_sublayers() -> None:
    backbone = scrambled(HiFormer(**SMALL, residual="pre"))
    stack = backbone.get_submodule("stack")
    assert_equal_with_gradients(backbone, lambda x: pre(x, stack, functions(stack, 4)))


@pytest.mark.parametrize("residual", ["post", "pre"])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_task_tokens_are_appended_and_read_out(residual: str, num_blocks: int) -> None:
    tasks = 2
    backbone = scrambled(HiFormer(**SMALL, residual=residual, num_blocks=num_blocks, num_task_tokens=tasks))
    stack, last = backbone.get_submodule("stack"), backbone.get_submodule("last")

    def naive(x: Tensor) -> Tensor:
        learned = backbone.get_parameter("task_tokens")
        x = torch.stack([torch.cat([row, learned]) for row in x])
        norms = [last.get_submodule(f"norms.{index}") for index in range(2 + (residual == "pre"))]
        inner, ffn = last.get_submodule("attention"), last.get_submodule("ffn")
        if residual == "post":
            x = post(x, stack, functions(stack, 2 * (num_blocks - 1)))
            z = layer_norm(x[:, T:] + attention(inner, x), norms[0])
            return layer_norm(z + own_ffn(z, ffn), norms[1]).flatten(1)
        for index, function in enumerate(functions(stack, 2 * (num_blocks - 1))):
            x = x + function(layer_norm(x, stack.get_submodule(f"norms.{index}")))
        z = x[:, T:] + attention(inner, layer_norm(x, norms[0]))
        return layer_norm(z + own_ffn(layer_norm(z, norms[1]), ffn), norms[2]).flatten(1)

    assert_equal_with_gradients(backbone, naive)


@pytest.mark.parametrize("residual", ["post", "pre"])
def test_pruning_the_last_block_changes_nothing_at_the_task_tokens(residual: str) -> None:
    """All tokens' queries, cut down to the last ones, against an unpruned model of as many tokens."""
    options = {**SMALL, "rank": None, "num_blocks": 2, "residual": residual}
    pruned = HiFormer(**options, num_task_tokens=2)
    whole = HiFormer(**{**options, "num_tokens": T + 2})
    names = {"sublayers.2": "attention", "sublayers.3": "ffn", "norms.2": "norms.0", "norms.3": "norms.1"}
    names |= {"final_norm": "norms.2"}
    state = {"task_tokens": pruned.state_dict()["task_tokens"]}
    for name, value in whole.state_dict().items():
        part = next((key for key in names if name.startswith(f"stack.{key}.")), None)
        if part is None:
            state[name] = value
            continue
        name = name.replace(f"stack.{part}", f"last.{names[part]}")
        if "query" in name:
            value = value[-2 * D :]  # rows of the task tokens
        elif "output" in name or ".ffn." in name:
            value = value[-2:]
        state[name] = value
    pruned.load_state_dict(state)
    x = torch.randn(5, T, D)
    full = whole(torch.cat([x, pruned.task_tokens.expand(5, -1, -1)], 1))
    torch.testing.assert_close(pruned(x), full[:, -2:].flatten(1), atol=1e-5, rtol=1e-5)


def test_task_tokens_make_the_output_a_vector() -> None:
    assert HiFormer(**SMALL).output_kind == "tokens"
    backbone = HiFormer(**SMALL, num_task_tokens=2)
    assert (backbone.output_kind, backbone.out_dim) == ("vector", 2 * D)
    assert HiFormer.output_kind == "tokens"  # of the class, untouched
    assert backbone(torch.zeros(1, T, D)).shape == (1, 2 * D)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rank": None},
        {"rank": 3, "value_rank": 5, "output_projection": False},
        {"num_task_tokens": 2, "residual": "pre", "ffn": "swiglu"},
        {"num_task_tokens": 3, "num_blocks": 1, "rank": None, "norm": "rms"},
        {"num_task_tokens": 1, "num_blocks": 3, "output_projection": False},
        {"residual": "siamese", "hidden_dim": 7},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((3, 16), (1, 4)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        assert HiFormer.formula(**arguments) == count_parameters(HiFormer(**arguments))


def test_projections_have_the_sizes_of_the_paper() -> None:
    length = 5 * 8
    for options, size in (({"rank": None}, 3 * length**2), ({"rank": 6, "value_rank": 9}, 2 * length * (2 * 6 + 9))):
        backbone = HiFormer(num_tokens=5, token_dim=8, num_blocks=1, output_projection=False, **options)
        assert count_parameters(backbone.get_submodule("stack.sublayers.0")) == size


def test_the_dial_moves_the_rank_unless_it_is_given() -> None:
    assert HiFormer.dimensions(48.0, num_tokens=16)["rank"] == 48
    assert "rank" not in HiFormer.dimensions(48.0, num_tokens=16, rank=8)
    assert "rank" not in HiFormer.dimensions(48.0, num_tokens=16, rank=None)


def test_full_matrices_grow_smoothly_where_they_dwarf_the_ffn() -> None:
    sizes = [10 + 0.25 * step for step in range(80)]
    counts = [
        HiFormer.formula(num_tokens=32, rank=None, **HiFormer.dimensions(size, num_tokens=32, rank=None))
        for size in sizes
    ]
    assert counts == sorted(counts)
    assert max(later / earlier for earlier, later in pairwise(counts)) < 1.06
    assert counts[-1] / counts[0] == pytest.approx((sizes[-1] / sizes[0]) ** 2, rel=0.03)


def test_patterns_are_composite() -> None:
    local, between = HiFormer(**SMALL).patterns()
    assert local == "linear of all blocks together, low rank"
    assert between == "softmax attention, projections linear of all blocks together, low rank"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_dim": 19}, "token_dim=19 must be divisible by num_heads=2; the nearest valid token_dim is 18 or 20"),
        ({"rank": 0}, "rank=0 must be greater than 0"),
        ({"value_rank": 0}, "value_rank=0 must be greater than 0"),
        ({"num_task_tokens": -1}, "num_task_tokens=-1 must be at least 0"),
        ({"num_task_tokens": 1, "residual": "siamese"}, "residual='siamese' is not defined with num_task_tokens=1"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        HiFormer(**{**SMALL, **options})
