import copy
import io
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer.backbones import TokenMixerLarge, build_backbone, count_parameters, fit_budget
from unimixer.backbones.tokenmixer_large import auxiliary_blocks, inter_residuals
from unimixer.blocks import PerTokenSwiGLU, RMSNorm, TopKMoE
from unimixer.errors import UnimixerError

T, D = 4, 16


def tokens(batch: int = 3) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(1)).double()


def make(**options: Any) -> TokenMixerLarge:
    """A float64 backbone; with full down matrices, so that every part shows in the output."""
    options = {"num_tokens": T, "token_dim": D, "init_scales": (1.0, 1.0, 1.0), **options}
    return TokenMixerLarge(**options).double()


# ---- the stack ----------------------------------------------------------------


def test_stack_of_two_equals_the_equations_of_the_outer_reading() -> None:
    backbone, x = make(num_heads=2), tokens()

    def normed(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()  # gains start at one

    def layer(x: Tensor, ffn: torch.nn.Module) -> Tensor:
        up, gate = torch.einsum("btd,tdh->bth", x, ffn.get_parameter("up_gate.weight")).chunk(2, -1)
        return torch.einsum("bth,thd->btd", up * gate * gate.sigmoid(), ffn.get_parameter("down.weight"))

    stream = x
    for block in backbone.blocks:
        heads = normed(stream).view(3, T, 2, D // 2).transpose(1, 2).reshape(3, 2, T * D // 2)
        mixed = layer(heads, block.get_submodule("mixed_ffn"))
        stream = stream + mixed.view(3, 2, T, D // 2).transpose(1, 2).reshape(3, T, D)
        stream = stream + layer(normed(stream), block.get_submodule("token_ffn"))
    torch.testing.assert_close(backbone(x), normed(stream))


@pytest.mark.parametrize(
    ("num_blocks", "every", "sources"),
    [
        (3, 2, {}),
        (4, 2, {3: 1}),
        (6, 2, {3: 1, 5: 3}),
        (7, 2, {3: 1, 5: 3}),
        (4, 3, {}),
        (8, 3, {4: 1, 7: 4}),
        (6, None, {}),
    ],
)
def test_earlier_outputs_join_later_inputs_but_not_that_of_the_last_block(
    num_blocks: int, every: int | None, sources: dict[int, int]
) -> None:
    """Blocks are counted from one here: block l gets the output of block ``sources[l]`` too."""
    backbone = make(num_blocks=num_blocks, inter_residual_every=every, num_auxiliary=0)
    outputs = [tokens()]
    for number, block in enumerate(backbone.blocks, start=1):
        entering = outputs[-1]
        if number in sources:
            assert number < num_blocks
            entering = entering + outputs[sources[number]]
        outputs.append(block(entering))
    torch.testing.assert_close(backbone(tokens()), backbone.final_norm(outputs[-1]))
    wired = {i + 1: j + 1 for i, j in enumerate(inter_residuals(num_blocks, every)) if j is not None}
    assert wired == sources


def test_inter_residuals_have_no_weights_and_change_the_output() -> None:
    one, other = make(num_blocks=4), make(num_blocks=4, inter_residual_every=None)
    other.load_state_dict(one.state_dict())
    assert not torch.allclose(one(tokens()), other(tokens()), atol=1e-3)


def test_a_final_norm_where_norms_come_first() -> None:
    assert isinstance(make().final_norm, RMSNorm)
    assert isinstance(make(residual="inner", norm_placement="pre").final_norm, RMSNorm)
    assert isinstance(make(residual="inner").final_norm, torch.nn.Identity)
    assert isinstance(make(final_norm=False).final_norm, torch.nn.Identity)
    assert isinstance(make(residual="inner", final_norm=True).final_norm, RMSNorm)


def test_readings_and_placements_reach_the_blocks() -> None:
    found = {
        (block.residual, block.norm_placement)
        for options in (
            {},
            {"residual": "inner"},
            {"norm_placement": "post"},
            {"residual": "inner", "norm_placement": "pre"},
        )
        for block in make(**options).blocks
    }
    assert found == {("outer", "pre"), ("inner", "post"), ("outer", "post"), ("inner", "pre")}


def test_heads_are_one_a_token_where_they_can_be() -> None:
    def heads(**options: Any) -> int:
        with torch.device("meta"):
            return TokenMixerLarge(**options).get_submodule("blocks.0.mixing").num_heads  # type: ignore[return-value]

    assert heads(num_tokens=16, token_dim=64) == 16
    assert heads(num_tokens=20, token_dim=64) == 16
    assert heads(num_tokens=7, token_dim=16) == 4
    assert heads(num_tokens=16, token_dim=64, num_heads=32) == 32


def test_the_table_of_patterns_comes_from_the_mixing() -> None:
    assert make(num_heads=2).patterns() == ("identity", "fixed permutation")


# ---- the start -----------------------------------------------------------------


def relative(weight: Tensor) -> float:
    return float(weight.detach().std() / (2 / sum(weight.shape[-2:])) ** 0.5)


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, (1.0, 1.0, 0.01)),
        ({"scale_on": "var"}, (1.0, 1.0, 0.1)),
        ({"init_scales": (0.01, 0.04, 1.0)}, (0.01, 0.04, 1.0)),
        ({"init_scales": (0.01, 0.04, 1.0), "scale_on": "var", "init_distribution": "normal"}, (0.1, 0.2, 1.0)),
    ],
)
def test_matrices_start_at_xavier_times_their_factor(options: dict[str, Any], factors: tuple[float, ...]) -> None:
    backbone = TokenMixerLarge(num_tokens=8, token_dim=64, num_heads=4, **options)
    for module in backbone.modules():
        if isinstance(module, PerTokenSwiGLU):
            up, gate = module.up_gate.weight.chunk(2, -1)
            for part, factor in zip((up, gate, module.down.weight), factors, strict=True):
                assert relative(part) == pytest.approx(factor, rel=0.04)


@pytest.mark.parametrize("residual", ["outer", "inner"])
def test_at_the_start_a_block_is_near_the_identity(residual: str) -> None:
    def moved(**options: Any) -> float:
        torch.manual_seed(0)
        block = make(num_heads=2, residual=residual, norm_placement="pre", **options).blocks[0]
        with torch.no_grad():
            return float((block(tokens()) - tokens()).norm() / tokens().norm())

    small, by_variance, full = (moved(init_scales=(1, 1, s)) for s in (0.01, 0.1, 1.0))
    assert small < 0.01
    assert by_variance == pytest.approx(moved(init_scales=(1, 1, 0.01), scale_on="var"))
    assert full > 0.1
    assert full / small == pytest.approx(100, rel=0.5)


def test_there_are_no_biases_unless_they_are_asked_for() -> None:
    def biases(**options: Any) -> set[str]:
        return {name.split(".")[-2] for name, _ in make(**options).named_parameters() if name.endswith("bias")}

    assert biases() == biases(ffn="gelu") == biases(ffn="topk-moe", hidden_dim=32) == set()
    assert biases(ffn_options={"bias": True}) == {"up_gate", "down"}


# ---- auxiliary losses ------------------------------------------------------------


def test_intermediate_tokens_are_kept_in_training_alone() -> None:
    backbone, x = make(num_blocks=6, num_auxiliary=2), tokens()
    backbone(x)
    assert backbone.intermediates is not None
    assert [tuple(kept.shape) for kept in backbone.intermediates] == [(3, T, D)] * 2
    with torch.no_grad():
        backbone(x)
    assert backbone.intermediates is None
    backbone(x)
    backbone.eval()(x)
    assert backbone.intermediates is None


def test_intermediate_tokens_are_those_after_their_blocks_under_the_final_norm() -> None:
    backbone, seen = make(num_blocks=6, num_auxiliary=2), []
    with torch.no_grad():
        backbone.final_norm.get_parameter("weight").normal_()
    for block in backbone.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    backbone(tokens())
    assert backbone.auxiliary_after == (1, 3)
    assert backbone.intermediates is not None
    for kept, place in zip(backbone.intermediates, backbone.auxiliary_after, strict=True):
        torch.testing.assert_close(kept, backbone.final_norm(seen[place]))


def test_a_loss_on_intermediate_tokens_trains_the_blocks_below_alone() -> None:
    backbone = make(num_blocks=4)
    backbone(tokens())
    assert backbone.intermediates is not None
    backbone.intermediates[0].pow(3).sum().backward()
    for index, block in enumerate(backbone.blocks):
        for parameter in block.parameters():
            assert (parameter.grad is not None and bool(parameter.grad.any())) == (index < 2)


@pytest.mark.parametrize("num_blocks", range(1, 9))
def test_places_of_auxiliary_losses_are_distinct_and_before_the_last(num_blocks: int) -> None:
    for number in range(num_blocks):
        places = auxiliary_blocks(num_blocks, number)
        assert len(set(places)) == number
        assert all(0 <= place < num_blocks - 1 for place in places)
    assert make(num_blocks=num_blocks).num_auxiliary == (1 if num_blocks >= 3 else 0)


def test_intermediate_tokens_do_not_travel_with_the_model() -> None:
    backbone = make(num_blocks=3)
    backbone(tokens())
    assert copy.deepcopy(backbone).intermediates is None
    torch.save(backbone.state_dict(), buffer := io.BytesIO())
    assert not [name for name in backbone.state_dict() if "intermediate" in name]
    buffer.seek(0)
    make(num_blocks=3).load_state_dict(torch.load(buffer))


def test_compiles_in_one_graph_with_intermediates_and_inter_residuals() -> None:
    torch._dynamo.reset()
    backbone, x = make(num_blocks=4, num_heads=2), tokens()
    expected = backbone(x)
    assert backbone.intermediates is not None
    kept, backbone.intermediates = backbone.intermediates[0], None
    torch.testing.assert_close(torch.compile(backbone, fullgraph=True, backend="eager")(x), expected)
    assert backbone.intermediates is not None
    torch.testing.assert_close(backbone.intermediates[0], kept)


# ---- sizes -----------------------------------------------------------------------


@pytest.mark.parametrize("num_heads", [2, 4, 8, 16])
def test_a_block_has_the_parameters_that_follow_from_the_paper(num_heads: int) -> None:
    n, blocks = 3, 2
    weights = 3 * n * T**2 * D**2 // num_heads + 3 * n * T * D**2
    expected = blocks * (weights + 2 * D) + D
    arguments = {"num_tokens": T, "token_dim": D, "num_heads": num_heads, "expansion": n, "num_blocks": blocks}
    assert TokenMixerLarge.formula(**arguments) == expected == count_parameters(TokenMixerLarge(**arguments))
    if num_heads == T:
        assert weights == 6 * n * T * D**2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_blocks": 5, "num_heads": 8},
        {"hidden_dim": 13, "num_heads": 2},
        {"residual": "inner", "num_heads": 2},
        {"residual": "inner", "num_heads": 2, "norm": "layer", "norm_placement": "pre"},
        {"norm_placement": "post", "expansion": 1.3},
        {"final_norm": False, "norm": "layer"},
        {"ffn_options": {"bias": True}, "num_heads": 8},
        {"ffn": "gelu"},
        {"ffn": "relu-moe", "ffn_options": {"num_experts": 3}, "num_heads": 2},
        {"ffn": "topk-moe", "ffn_options": {"num_experts": 4, "num_active": 3}, "num_heads": 8},
        {"ffn": "topk-moe", "hidden_dim": 40, "ffn_options": {"shared_width": "full", "router": "shared"}},
    ],
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    for num_tokens, token_dim in ((4, 16), (6, 16), (3, 24)):
        arguments = {"num_tokens": num_tokens, "token_dim": token_dim, **options}
        assert TokenMixerLarge.formula(**arguments) == count_parameters(TokenMixerLarge(**arguments))


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 8},
        {"num_heads": 32},
        {"num_blocks": 6},
        {"residual": "inner"},
        {"ffn": "gelu"},
        {"ffn": "topk-moe", "ffn_options": {"num_experts": 8, "num_active": 4}},
    ],
)
def test_budgets_are_met_with_options(options: dict[str, Any]) -> None:
    for params in (300_000, 1_000_000):
        backbone = fit_budget("tokenmixer-large", params=params, num_tokens=16, **options)
        assert count_parameters(backbone) == pytest.approx(params, rel=0.02)


def test_the_sparse_variant_has_the_parameters_of_the_dense_one_and_its_routers() -> None:
    options = {"num_experts": 4, "num_active": 3}
    sparse = make(ffn="topk-moe", ffn_options=options, hidden_dim=32)
    dense = make(hidden_dim=32)
    routers = 2 * 2 * (T * D * 3)  # two blocks of two layers; the shared expert needs no router
    assert count_parameters(sparse) == count_parameters(dense) + routers
    layers = [module for module in sparse.modules() if isinstance(module, TopKMoE)]
    assert len(layers) == 4
    small = TokenMixerLarge(num_tokens=8, token_dim=64, ffn="topk-moe", ffn_options=options)
    for layer in (module for module in small.modules() if isinstance(module, TopKMoE)):
        assert layer.experts.widths == (32,) * 4
        assert relative(layer.experts.down[:, :32]) == pytest.approx(0.01, rel=0.05)
        assert relative(layer.experts.up.weight[..., :32]) == pytest.approx(1, rel=0.05)


# ---- mistakes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 6}, "num_heads=6 must divide token_dim=16; the nearest valid num_heads is 4 or 8"),
        ({"num_heads": 6}, "the nearest valid token_dim 12 or 18"),
        ({"num_heads": 0}, "num_heads=0 must be greater than 0"),
        ({"num_blocks": 0}, "num_blocks=0 must be greater than 0"),
        ({"inter_residual_every": 1}, "inter_residual_every=1 must be at least 2"),
        ({"num_blocks": 3, "num_auxiliary": 3}, "num_auxiliary=3 must be from 0 to num_blocks - 1 = 2"),
        ({"num_auxiliary": -1}, "num_auxiliary=-1 must be from 0"),
        ({"init_scales": (1.0, 0.01)}, "init_scales=(1.0, 0.01) must be three factors, of up, gate and down"),
        ({"init_scales": (1.0, 1.0, 0.0)}, "scale=0.0 must be greater than 0"),
        ({"ffn": "swiglue"}, "ffn='swiglue' is not one of gelu, swiglu, relu-moe, topk-moe"),
        ({"ffn_options": {"down_scale": 0.1}}, "ffn_options has 'down_scale'; here init_scales and scale_on"),
        ({"residual": "post"}, "residual='post' is not one of outer, inner"),
        ({"expansions": 2}, "unknown option of backbone 'tokenmixer-large': 'expansions'"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone("tokenmixer-large", **{"num_tokens": T, "token_dim": D, **options})
