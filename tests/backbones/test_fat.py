"""FAT: projections by field or from bases, modulated logits, both readings of the residual."""

import re
from typing import Any

import pytest
import torch
from naive_attention import assert_equal_with_gradients, attend, layer_norm, own, post, scrambled, silu
from torch import Tensor, nn

from unimixer.backbones import FAT, count_parameters
from unimixer.errors import UnimixerError
from unimixer.mixing import materialize

T, D, H = 3, 4, 2
SMALL: dict[str, Any] = {"num_tokens": T, "token_dim": D, "num_heads": H, "hidden_dim": 5}


def matrices(local: nn.Module, top_k: int | None) -> Tensor:
    """One matrix a field: its own, or the sum of its bases."""
    named = dict(local.named_parameters())
    if "weight" in named:
        return named["weight"]
    composed = []
    for field in named["fields"]:
        numbers = (field @ named["router"]).exp()
        if top_k is not None:
            kept = numbers.argsort(descending=True)[:top_k]
            numbers = torch.stack([n if m in kept else n * 0 for m, n in enumerate(numbers)])
        shares = numbers / numbers.sum()
        composed.append(sum(share * basis for share, basis in zip(shares, named["basis"], strict=True)))
    return torch.stack(composed)


def attention(sublayer: nn.Module, x: Tensor, *, top_k: int | None = None, scaled: bool = True) -> Tensor:
    names = ("mixing.global_.query", "mixing.global_.key", "mixing.local")
    q, k, v = (own(x, matrices(sublayer.get_submodule(name), top_k)) for name in names)
    named = dict(sublayer.named_parameters())
    scale = (D / H) ** -0.5 if scaled else 1.0
    attended = attend(q, k, v, heads=H, scale=scale, modulation=named.get("mixing.global_.modulation"))
    return own(attended, named["output.weight"]) if "output.weight" in named else attended


def ffn(sublayer: nn.Module, x: Tensor) -> Tensor:
    return own(silu(own(x, sublayer.get_parameter("0.weight"))), sublayer.get_parameter("2.weight"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modulation_per_head": True, "scaled": False},
        {"modulation": "none", "output_projection": True},
        {"num_basis": 5, "field_dim": 3},
        {"num_basis": 5, "field_dim": 3, "top_k": 2},
    ],
)
@pytest.mark.parametrize("residual", ["post", "block"])
def test_fat_equals_its_equations(options: dict[str, Any], residual: str) -> None:
    backbone = scrambled(FAT(**SMALL, **options, residual=residual))
    stack, top_k, scaled = backbone.get_submodule("stack"), options.get("top_k"), options.get("scaled", True)

    def naive(x: Tensor) -> Tensor:
        x = x + backbone.get_parameter("field_bias")
        if residual == "block":
            for index in range(2):
                parts = [stack.get_submodule(f"blocks.{index}.{part}") for part in range(3)]
                z = layer_norm(attention(parts[0], x, top_k=top_k, scaled=scaled), parts[1])
                x = x + ffn(parts[2], z)
            return x

        def sublayer(index: int, y: Tensor) -> Tensor:
            module = stack.get_submodule(f"sublayers.{index}")
            return ffn(module, y) if index % 2 else attention(module, y, top_k=top_k, scaled=scaled)

        return post(x, stack, [lambda y, index=index: sublayer(index, y) for index in range(4)])

    assert_equal_with_gradients(backbone, naive)


@pytest.mark.parametrize("per_head", [False, True])
def test_the_first_forward_is_plain_attention(per_head: bool) -> None:
    modulated, plain = FAT(**SMALL, modulation_per_head=per_head), FAT(**SMALL, modulation="none")
    plain.load_state_dict({k: v for k, v in modulated.state_dict().items() if k in plain.state_dict()})
    x = torch.randn(4, T, D)
    torch.testing.assert_close(modulated(x), plain(x))


def test_modulation_of_a_pair_reaches_its_own_query_alone() -> None:
    backbone, x = FAT(**SMALL, num_blocks=1), torch.randn(4, T, D)
    before = backbone(x)
    with torch.no_grad():
        backbone.get_parameter("stack.sublayers.0.mixing.global_.modulation")[0, 1, 2] = 3.0
    changed = (backbone(x) != before).any(-1).any(0)
    assert changed.tolist() == [False, True, False]


def test_materialised_bases_give_equal_outputs() -> None:
    backbone, x = FAT(**SMALL, num_basis=6, top_k=3).eval(), torch.randn(4, T, D)
    plain = materialize(backbone)
    torch.testing.assert_close(plain(x), backbone(x))
    assert plain.state_dict().keys() == FAT(**SMALL).state_dict().keys()
    FAT(**SMALL).load_state_dict(plain.state_dict())  # an ordinary model of fields' own projections


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modulation": "none", "output_projection": True, "num_blocks": 3},
        {"modulation_per_head": True, "residual": "block", "norm": "rms"},
        {"num_basis": 6, "residual": "pre"},
        {"num_basis": 6, "field_dim": 5, "top_k": 3, "residual": "siamese", "expansion": 1.3},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((3, 16), (1, 4)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        assert FAT.formula(**arguments) == count_parameters(FAT(**arguments))


def test_pairs_cost_one_number_each() -> None:
    with_, without = (FAT.formula(num_tokens=7, token_dim=8, modulation=name) for name in ("logit", "none"))
    assert with_ - without == 2 * 7**2


def test_patterns_name_modulation_and_bases() -> None:
    local, between = FAT(**SMALL).patterns()
    assert local == "linear, own for every block"
    assert between == "softmax attention, projections own for every block, logits times a number a pair"
    local, between = FAT(**SMALL, num_basis=4, modulation_per_head=True).patterns()
    assert local == "linear, own for every block, composed of a shared basis"
    assert between == (
        "softmax attention, projections composed of a shared basis, logits times a number a pair and head"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_dim": 19}, "token_dim=19 must be divisible by num_heads=2; the nearest valid token_dim is 18 or 20"),
        ({"modulation": "logits"}, "modulation='logits' is not one of logit, none; did you mean 'logit'?"),
        ({"modulation": "none", "modulation_per_head": True}, "modulation_per_head=True has no use"),
        ({"top_k": 3}, "top_k=3 chooses among bases; give num_basis as well"),
        ({"num_basis": 4, "top_k": 5}, "top_k=5 must lie between 2 and num_basis=4; None uses all bases"),
        ({"num_basis": 4, "top_k": 1}, "top_k=1 must lie between 2 and num_basis=4"),
        ({"num_basis": 0}, "num_basis=0 must be greater than 0"),
        ({"residual": "blocks"}, "unknown residual 'blocks'"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        FAT(**{**SMALL, **options})
