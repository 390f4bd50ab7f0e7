"""Sizes of mixtures by formula, every form in which they run, and mistakes."""

import re
from typing import Any

import pytest
import torch
from mixtures import EVERY, KINDS, D, E, H, T, build, rows

from unimixer.blocks import build_ffn
from unimixer.blocks.ffn import ffn_matrices, ffn_parameters, matched_hidden, sensible_ffn
from unimixer.blocks.moe.experts import slices
from unimixer.errors import UnimixerError


@pytest.mark.parametrize(("name", "options"), [("gelu", {}), ("swiglu", {}), *KINDS])
def test_the_formula_counts_the_parameters(name: str, options: dict[str, Any]) -> None:
    options = options if name in ("gelu", "swiglu") else {"num_experts": E, **options}
    for hidden_dim in (8, 13, 20):
        with torch.device("meta"):
            built = build_ffn(name, T, D, hidden_dim, options)
        assert ffn_parameters(name, T, D, hidden_dim, options) == sum(p.numel() for p in built.parameters())


@EVERY
def test_a_mixture_can_match_the_parameters_of_a_dense_layer(name: str, options: dict[str, Any]) -> None:
    options = {"num_experts": E, **options}
    dense = ffn_matrices(name, options) * 8 * 16 * 90
    hidden = matched_hidden(name, 8, 16, 90.0, options)
    unit = ffn_parameters(name, 8, 16, hidden + 1, options) - ffn_parameters(name, 8, 16, hidden, options)
    assert abs(ffn_parameters(name, 8, 16, hidden, options) - dense) <= 2 * unit
    assert matched_hidden(name, 8, 16, 0.0, options) == E  # a unit for every expert
    assert sensible_ffn(name, 8, 16, options) == ffn_parameters(name, 8, 16, 4 * E, options)


def test_slices_differ_by_one_unit_at_most() -> None:
    for hidden_dim in range(4, 30):
        widths = slices(hidden_dim, 4)
        assert sum(widths) == hidden_dim
        assert max(widths) - min(widths) <= 1


@EVERY
def test_compiles_without_a_graph_break_in_training(name: str, options: dict[str, Any]) -> None:
    if name == "topk-moe":
        options = {**options, "balance_weight": 0.1}
    moe = build(name, **options)
    compiled = torch.compile(moe, fullgraph=True, backend="aot_eager")
    found = []
    for form in (moe, compiled):
        moe.zero_grad(set_to_none=True)
        for batch in (5, 7):  # a second size is where shapes become dynamic
            x = rows(batch, torch.float32)
            output = form(x)
            assert moe.penalty.requires_grad
            (output.square().sum() + 1e6 * moe.penalty).backward()
        found.append([output, moe.penalty, *(p.grad for p in moe.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@EVERY
def test_exports_with_a_dynamic_batch(name: str, options: dict[str, Any]) -> None:
    moe = build(name, **options)
    moe(rows(dtype=torch.float32))  # what training left behind does not reach the export
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(moe.eval(), (rows(3, torch.float32),), dynamic_shapes=({0: batch},))
    for size in (1, 9):
        x = rows(size, torch.float32)
        torch.testing.assert_close(program.module()(x), moe(x))


@EVERY
def test_bf16_autocast_is_near_float32_and_routes_in_float32(name: str, options: dict[str, Any]) -> None:
    moe, x = build(name, **options), rows(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = moe(x)
        router = moe.infer_router if name == "relu-moe" else moe.router
        assert router(x).dtype == torch.float32
        (low.float().square().sum() + (0 if moe.penalty is None else moe.penalty)).backward()
    torch.testing.assert_close(low.float(), moe(x), atol=0.03, rtol=0.05)
    assert all(torch.isfinite(p.grad).all() for p in moe.parameters() if p.grad is not None)


@EVERY
def test_a_row_does_not_depend_on_the_others_at_inference(name: str, options: dict[str, Any]) -> None:
    moe, x = build(name, **options).eval(), rows(dtype=torch.float32)
    torch.testing.assert_close(moe(x)[3:4], moe(x[3:4]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("relu-moe", {"num_experts": 15}, "hidden_dim=14 must be at least num_experts=15"),
        ("relu-moe", {"active_ratio": 1.0}, "active_ratio=1.0 must be less than 1; a dense layer is ffn='gelu'"),
        ("relu-moe", {"active_ratio": 0.0}, "active_ratio=0.0 must be greater than 0"),
        ("relu-moe", {"multiplier": 1.0}, "multiplier=1.0 must be greater than 1"),
        ("relu-moe", {"combine": "sum"}, "combine='sum' is not one of alternate, mean"),
        ("relu-moe", {"largest": 1e-9}, "largest=1e-09 must be at least coefficient=1e-08"),
        ("relu-moe", {"expert": "relu"}, "expert='relu' is not one of gelu, swiglu"),
        ("relu-moe", {"num_expert": 4}, "unknown option of ffn 'relu-moe': 'num_expert'; did you mean 'num_experts'?"),
        ("topk-moe", {"num_active": 5}, "num_active=5 must be at most num_experts=4"),
        (
            "topk-moe",
            {"num_active": 1},
            "num_active=1 leaves no expert to choose beside the shared one; take 2 or more",
        ),
        ("topk-moe", {"num_active": 2}, "would not learn; take num_active=3 or gate='all'"),
        ("topk-moe", {"num_active": 3, "balance_weight": -1.0}, "balance_weight=-1.0 must be at least 0"),
        ("topk-moe", {"num_active": 3, "scale_on": "sd"}, "scale_on='sd' is not one of std, var"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build(name, **options)


def test_a_dense_ffn_has_no_options() -> None:
    with pytest.raises(UnimixerError, match="unknown option of ffn 'gelu': 'num_experts'"):
        build_ffn("gelu", T, D, H, {"num_experts": 2})
