import re
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL
from torch import Tensor, nn

from unimixer.backbones import (
    BACKBONES,
    MLP,
    Backbone,
    DCNv2,
    RankMixer,
    TokenMixer,
    UniMixer,
    UniMixerLite,
    build_backbone,
    count_parameters,
    fit_budget,
    solve_width,
)
from unimixer.errors import UnimixerError
from unimixer.mixing import TokenMixing, freeze, set_temperature
from unimixer.mixing.constrained import Constrained

T, D = 4, 16
NAMES = pytest.mark.parametrize("name", list(BACKBONES))
TRACED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in BACKBONES),
    ("unimixer", {"residual": "siamese", "init": "random"}),
    ("unimixer-lite", {"matrices": "blocks"}),
    ("unimixer", {"matrices": "heads", "num_heads": 2, "symmetric": False, "init": "random"}),
    ("unimixer-lite", {"residual": "bare-mixing", "expansion": 0.5}),
    ("unimixer-lite", {"matrices": "blocks", "residual": "pre", "symmetric": False, "local": "free"}),
    ("unimixer", {"ffn": "relu-moe", "local": "shared"}),
    ("unimixer-lite", {"matrices": "blocks", "gate": 0.05, "range_cap": 2.0, "init": "random"}),
    ("unimixer", {"constraint": "unit-rows", "symmetric": False}),
    ("unimixer", {"constraint": "orthogonal", "symmetric": False}),
    ("unimixer", {"constraint": "permutations", "gate": 0.5}),
    ("unimixer", {"constraint": "kronecker", "init": "random"}),
    ("rankmixer", {"ffn": "topk-moe", "ffn_options": {"num_experts": 5, "num_active": 3}, "residual": "pre"}),
    ("unimixer", {"ffn": "relu-moe", "ffn_options": {"combine": "mean", "expert": "swiglu"}}),
    *(("token-mixer", dict(options)) for options in TokenMixer.variants),
    ("tokenmixer-large", {"num_blocks": 4, "num_heads": 8}),
    ("tokenmixer-large", {"residual": "inner", "num_heads": 2, "ffn": "gelu", "norm": "layer"}),
    ("hiformer", {"num_task_tokens": 2, "residual": "pre", "value_rank": 5, "output_projection": False}),
    ("hiformer", {"rank": None, "num_task_tokens": 1, "num_blocks": 1}),
    ("fat", {"num_basis": 6, "top_k": 3, "modulation_per_head": True, "residual": "block"}),
    ("dcnv2", {"structure": "stacked", "cross_rank": 3, "batch_norm": True}),
    ("fm", {"num_factors": 20, "first_order": False}),
    ("dlrm", {"bottom": False, "self_interaction": True}),
    ("masknet", {"structure": "parallel", "hidden_dims": (12,), "ratio": 0.25}),
    ("autoint", {"scaled": True, "residual": "identity", "mlp_hidden_dims": (24, 12)}),
    ("wukong", {"fm": "full", "pooling": "mean"}),
    ("wukong", {"fm": "attentive", "num_compressed": 2, "attentive_dims": (8,), "num_linear": 2}),
    ("unidot", {"products": "gram", "pooling": "mean"}),
    ("dhen", {"modules": ("dcn", "convolution", "linear"), "cross_rank": 6}),
    ("rankelastor", {"mixing": "paper", "ffn": "paper"}),
]
"""Each takes a branch of a forward, or has an operation, that none before it has; compilers and exporters see these."""
VARIANTS = [
    *TRACED,
    ("unimixer-lite", {"residual": "siamese-official"}),
    ("transformer", {"residual": "bare-mixing"}),
    ("unimixer-lite", {"residual": "siamese", "norm": "layer", "ffn": "gelu"}),
    ("rankmixer", {"ffn": "swiglu", "residual": "pre", "norm": "rms"}),
    ("unimixer-lite", {"ffn": "topk-moe"}),
    ("rankmixer", {"ffn": "relu-moe", "ffn_options": {"num_experts": 4}}),
    ("token-mixer", {"mixing": "per-head", "init": "random", "num_heads": 2, "residual": "pre"}),
    ("mtmixatt", {"ffn": "swiglu", "num_heads": 2, "norm": "rms"}),
    ("hubmixer", {"num_hubs": 3, "residual": "post", "num_heads": 2}),
    ("tokenmixer-large", {"ffn": "topk-moe", "ffn_options": {"num_experts": 4, "num_active": 3}, "hidden_dim": 32}),
    ("transformer", {"residual": "siamese", "norm": "rms"}),
    ("hetero-attention", {"value_width": "full", "ffn": "swiglu", "residual": "siamese"}),
    ("fat", {"modulation": "none", "scaled": False, "output_projection": True, "residual": "pre"}),
    ("hhft", {"rank": None, "residual": "siamese", "norm": "rms"}),
    ("mlp", {"batch_norm": True, "dropout": 0.1}),
    ("deepfm", {"batch_norm": True, "num_factors": 3}),
    ("finalmlp", {"first_context": (0, 2), "second_context": (3,), "batch_norm": True}),
    ("finalmlp", {"gate": False, "num_heads": 4}),
    ("dhen", {"ensemble": "sum", "num_outputs": 4, "num_heads": 2}),
    ("rankelastor", {"ffn_dims": (24, 16), "num_layers": 1}),
]
"""The others have branches of the former in other company, or other sizes."""


def each(variants: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("name", "options"), variants, ids=lambda v: v if isinstance(v, str) else "-".join(v)
    )


EVERY, EVERY_TRACED = each(VARIANTS), each(TRACED)
WITH_OPTIONS = each([(name, options) for name, options in TRACED if options])


def small(name: str, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, num_tokens=T, token_dim=D, **{**SMALL.get(name, {}), **options})


def shallow(name: str, *, defaults: bool = False, **options: Any) -> Backbone:
    """The same with one block where options change a block and not its neighbors: two take twice as long to trace.

    ``defaults`` says that this holds without options as well.
    """
    inside = (options or defaults) and not {"residual", "num_blocks"} & options.keys()
    inside = inside and "num_blocks" in BACKBONES[name].options() and (options or name != "tokenmixer-large")
    return small(name, **options, **({"num_blocks": 1} if inside else {}))


def tokens(batch: int) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(batch))


def pooled(backbone: Backbone, x: Tensor) -> Tensor:
    output: Tensor = backbone(x)
    return output.mean(1) if backbone.output_kind == "tokens" else output


@EVERY
def test_output_has_the_shape_that_the_backbone_states(name: str, options: dict[str, Any]) -> None:
    backbone = small(name, **options).eval()
    for batch in (1, 5):
        expected = (batch, T, D) if backbone.output_kind == "tokens" else (batch, backbone.out_dim)
        assert backbone(tokens(batch)).shape == expected
    assert pooled(backbone, tokens(2)).shape == (2, backbone.out_dim)
    assert (backbone.num_tokens, backbone.token_dim) == (T, D)
    assert backbone.family
    assert backbone.default_tokenizer in ("chunk", "semantic", "field")


@EVERY
def test_the_closed_formula_counts_every_parameter(name: str, options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **SMALL.get(name, {}), **options}
    assert BACKBONES[name].formula(**arguments) == count_parameters(small(name, **options))


@EVERY
def test_rows_of_a_batch_do_not_meet(name: str, options: dict[str, Any]) -> None:
    backbone, x = small(name, **options).eval(), tokens(5)
    torch.testing.assert_close(backbone(x)[2:3], backbone(x[2:3]), atol=1e-5, rtol=1e-5)


@EVERY
def test_every_parameter_gets_a_gradient_at_the_start(name: str, options: dict[str, Any]) -> None:
    backbone = small(name, **options)
    head = nn.Linear(backbone.out_dim, 1)
    F.binary_cross_entropy_with_logits(head(pooled(backbone, tokens(64))), torch.ones(64, 1)).backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        before_batch_norm = options.get("batch_norm") and parameter_name.endswith("bias")
        assert before_batch_norm or parameter.grad.abs().max() > 0, parameter_name


@EVERY
def test_overfits_one_batch(name: str, options: dict[str, Any]) -> None:
    backbone = small(name, **options)
    head = nn.Linear(backbone.out_dim, 1)
    labels = torch.arange(16).remainder(2).float().unsqueeze(1)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(head(pooled(backbone, tokens(16))), labels)
        if loss.item() < 0.1:
            break
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@EVERY
def test_bf16_autocast_is_finite_and_near_float32(name: str, options: dict[str, Any]) -> None:
    backbone, x = small(name, **options).eval(), tokens(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = backbone(x)
        output.float().square().sum().backward()
    assert torch.isfinite(output).all()
    torch.testing.assert_close(output.float(), backbone(x).float(), atol=0.15, rtol=0.1)


@WITH_OPTIONS
def test_exports_with_a_dynamic_batch(name: str, options: dict[str, Any]) -> None:
    """Backbones without options are exported inside rankers, in the tests of bundles."""
    backbone = shallow(name, **options).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    constrained = any(isinstance(part, Constrained) for part in backbone.modules())  # of others, freeze makes a copy
    for module in (backbone, freeze(backbone)) if constrained else (backbone,):
        program = torch.export.export(module, (tokens(3),), dynamic_shapes=({0: batch},)).module()
        for size in (1, 7):
            torch.testing.assert_close(program(tokens(size)), backbone(tokens(size)), atol=1e-5, rtol=1e-5)


@NAMES
@pytest.mark.parametrize(("num_tokens", "params"), [(8, 5_000_000), (16, 300_000), (20, 1_000_000), (32, 300_000)])
def test_a_budget_is_met_within_two_percent(name: str, num_tokens: int, params: int) -> None:
    backbone = fit_budget(name, params=params, num_tokens=num_tokens)
    assert count_parameters(backbone) == pytest.approx(params, rel=0.02)
    assert backbone.num_tokens == num_tokens


@NAMES
def test_a_budget_is_met_for_tokens_of_a_given_width(name: str) -> None:
    backbone = fit_budget(name, params=500_000, num_tokens=16, token_dim=16)
    assert count_parameters(backbone) == pytest.approx(500_000, rel=0.02)
    assert backbone.token_dim == 16
    assert torch.isfinite(backbone(torch.zeros(2, 16, 16))).all()


@NAMES
def test_parameters_grow_smoothly_with_the_dial(name: str) -> None:
    cls, counts = BACKBONES[name], []
    for size in (64.0, 80.0, 96.0, 128.0, 181.0, 256.0):
        with torch.device("meta"):
            counts.append(count_parameters(cls(num_tokens=16, **cls.dimensions(size, num_tokens=16))))
    assert counts == sorted(counts)
    assert all(later < 3 * earlier for earlier, later in pairwise(counts))


def test_options_reach_the_fitted_backbone() -> None:
    backbone = fit_budget(
        "unimixer-lite", params=400_000, num_tokens=16, matrices="blocks", rank=8, expansion=3.0, residual="siamese"
    )
    assert count_parameters(backbone) == pytest.approx(400_000, rel=0.02)
    assert any(p.shape[-1] == 8 for n, p in backbone.named_parameters() if n.endswith("global_.left"))


def test_a_budget_out_of_reach_names_the_nearest_count() -> None:
    with pytest.raises(
        UnimixerError, match=r"'rankmixer' with num_tokens=64: params=10 cannot be met .* smallest count is 25,216"
    ):
        fit_budget("rankmixer", params=10, num_tokens=64)
    with pytest.raises(UnimixerError, match="params=150 cannot be met within 2%; the nearest counts are 100 and 200"):
        solve_width(lambda size: int(size) // 100 * 100, 150, high=1000.0)


def test_solver_finds_the_size_of_a_step_function() -> None:
    size = solve_width(lambda s: 3 * round(s) * 16, 4_800)
    assert round(size) == 100


def test_sizes_of_the_defaults() -> None:
    assert UniMixer.dimensions(64.0, num_tokens=16)["token_dim"] == 64
    for name in ("unimixer", "unimixer-lite"):
        backbone = fit_budget(name, params=900_000, num_tokens=16)
        assert backbone.token_dim == 64


def test_a_small_lite_model_keeps_all_heads_and_narrows_its_ffn() -> None:
    for size in (20.0, 38.0, 64.0):
        found = UniMixerLite.dimensions(size, num_tokens=16, matrices="blocks")
        assert found["num_heads"] == 16
        assert found["token_dim"] == 64
    assert UniMixer.dimensions(40.0, num_tokens=32)["num_heads"] < 32  # 32**4 numbers leave no room at this size


def test_unimixer_starts_as_the_same_stack_with_the_rule() -> None:
    learned = small("unimixer", init_scale=2.0)
    ruled = small("rankmixer", ffn="swiglu", norm="rms", expansion=2.0)
    ruled.load_state_dict({k: v for k, v in learned.state_dict().items() if k in ruled.state_dict()})
    set_temperature(learned, 0.05)
    torch.testing.assert_close(learned(tokens(4)), ruled(tokens(4)), atol=1e-4, rtol=0)


def test_rankmixer_block_equals_its_equations() -> None:
    torch.manual_seed(0)
    backbone, x = RankMixer(num_tokens=T, token_dim=D, num_blocks=1).double(), tokens(3).double()
    ffn = backbone.stack.get_submodule("sublayers.1")
    s = F.layer_norm(x + TokenMixing(T, D)(x), (D,))
    torch.testing.assert_close(backbone(x), F.layer_norm(s + ffn(s), (D,)))


@pytest.mark.parametrize("rank", [None, 3])
def test_dcnv2_equals_its_equations(rank: int | None) -> None:
    backbone, x = DCNv2(num_tokens=T, token_dim=D, cross_rank=rank, hidden_dims=(8,)).double(), tokens(3).double()
    x_0 = crossed = x.flatten(1)
    for layer in backbone.crosses:
        if rank is None:
            weight = layer.get_parameter("linear.weight")
            bias = layer.get_parameter("linear.bias")
        else:
            weight = layer.get_parameter("linear.1.weight") @ layer.get_parameter("linear.0.weight")
            bias = layer.get_parameter("linear.1.bias")
        crossed = x_0 * (crossed @ weight.T + bias) + crossed
    assert backbone.deep is not None
    torch.testing.assert_close(backbone(x), torch.cat([crossed, backbone.deep(x_0)], 1))


def test_cross_network_alone_and_stacked() -> None:
    assert DCNv2(num_tokens=T, token_dim=D, hidden_dims=()).out_dim == T * D
    stacked = DCNv2(num_tokens=T, token_dim=D, hidden_dims=(8,), structure="stacked")
    assert stacked(tokens(2)).shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unimixr", {}, "unknown backbone 'unimixr'; did you mean 'unimixer'?"),
        ("unimixer-lite", {"ranks": 8}, "unknown option of backbone 'unimixer-lite': 'ranks'; did you mean 'rank'?"),
        ("rankmixer", {"temperature": 1.0}, "unknown option of backbone 'rankmixer': 'temperature'"),
        ("mlp", {"token_dim": 8}, "backbone 'mlp' needs the option 'num_tokens'"),
        ("mlp", {"num_tokens": 2, "token_dim": 8, "hidden_dims": ()}, "hidden_dims is empty"),
        ("mlp", {"num_tokens": 2, "token_dim": 8, "dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ("mlp", {"num_tokens": 2, "token_dim": 8, "hidden_dims": 7}, "an option has a value of the wrong type"),
        (
            "rankmixer",
            {"num_tokens": 16, "token_dim": 770},
            "token_dim=770 must be divisible by num_tokens=16; the nearest valid token_dim is 768 or 784",
        ),
        ("rankmixer", {"num_heads": 8}, "unknown option of backbone 'rankmixer': 'num_heads'"),
        (
            "unimixer",
            {"token_dim": 70},
            "token_dim=70 must be divisible by num_tokens=16; the nearest valid token_dim is 64 or 80",
        ),
        ("unimixer", {"num_blocks": 0}, "num_blocks=0 must be greater than 0"),
        ("unimixer", {"residual": "sandwich"}, "unknown residual 'sandwich'"),
        ("dcnv2", {"num_tokens": 2, "token_dim": 8, "structure": "serial"}, "structure='serial' is not one of"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone(name, **options)


def test_wrong_tokens_are_named() -> None:
    with pytest.raises(UnimixerError, match=r"tokens has shape \(2, 4, 8\), expected \(any, 4, 16\)"):
        MLP(num_tokens=T, token_dim=D)(torch.zeros(2, T, 8))
