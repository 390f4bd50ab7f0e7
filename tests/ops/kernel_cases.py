"""Every kernel against its reference; ``test_kernels.py`` runs this file in a process of its own.

Triton decides at its import whether it interprets or compiles, so a process does one of the two: in the interpreter
(``TRITON_INTERPRET=1``) all tensors are on the CPU, else they are on a GPU.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer import ops
from unimixer.backbones import build_backbone
from unimixer.errors import UnimixerError
from unimixer.ops import kernels
from unimixer.ops.kernels.swiglu import gated
from unimixer.ops.kernels.unimixing import mix
from unimixer.ops.sinkhorn.implicit import scale

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def reference_after_each_test() -> Iterator[None]:
    yield
    kernels.select("reference")


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(DEVICE)


def results(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """The output and the gradients of all inputs, for fixed random upstream gradients."""
    leaves = [None if x is None else x.clone().requires_grad_() for x in inputs]
    output = function(*leaves)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output)
    output.backward(upstream)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None)]


def assert_as_exact_as(found: list[Tensor], reference: list[Tensor], exact: list[Tensor]) -> None:
    """Of the same dtypes, and as near to float64 as the reference is, within a factor."""
    assert len(found) == len(reference) == len(exact)
    for value, wanted, truth in zip(found, reference, exact, strict=True):
        assert value.dtype == wanted.dtype
        assert value.shape == wanted.shape
        size = truth.abs().max().clamp(min=1e-3)
        error = (value.double() - truth).abs().max() / size
        allowed = 4 * (wanted.double() - truth).abs().max() / size + 4 * torch.finfo(value.dtype).eps
        assert error <= allowed, f"{error:.1e} is more than {allowed:.1e}"


def compare(
    kernel: Callable[..., Tensor], reference: Callable[..., Tensor], dtype: torch.dtype, *inputs: Tensor | None
) -> None:
    narrow = [None if x is None else x.to(dtype) for x in inputs]
    wide = [None if x is None else x.double() for x in narrow]
    assert_as_exact_as(results(kernel, *narrow), results(reference, *narrow), results(reference, *wide))


def mixing_inputs(batch: int, num_blocks: int, block_size: int, shared: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    local = normal(1 if shared else num_blocks, block_size, block_size, scale=block_size**-0.5)
    return normal(batch, num_blocks * block_size), normal(num_blocks, num_blocks, scale=num_blocks**-0.5), local


@DTYPES
@pytest.mark.parametrize(
    ("batch", "num_blocks", "block_size"), [(1, 2, 4), (1, 5, 3), (3, 24, 1), (3, 2, 6), (7, 5, 2), (33, 17, 4)]
)
def test_unimixing(batch: int, num_blocks: int, block_size: int, dtype: torch.dtype) -> None:
    compare(kernels.unimixing, ops.unimixing, dtype, *mixing_inputs(batch, num_blocks, block_size))


@DTYPES
@pytest.mark.parametrize(("batch", "num_blocks", "block_size"), [(7, 9, 3), (17, 20, 16), (33, 67, 4)])
def test_unimixing_with_one_local_matrix_for_all_and_over_many_tiles(
    batch: int, num_blocks: int, block_size: int, dtype: torch.dtype
) -> None:
    compare(kernels.unimixing, ops.unimixing, dtype, *mixing_inputs(batch, num_blocks, block_size, shared=True))


def test_unimixing_repeats_to_the_last_bit() -> None:
    inputs = mixing_inputs(70, 20, 3)
    for first, second in zip(results(kernels.unimixing, *inputs), results(kernels.unimixing, *inputs), strict=True):
        assert torch.equal(first, second)


def test_an_empty_batch_has_an_empty_output_and_gradients_of_zero() -> None:
    output, grad_x, grad_global, grad_local = results(kernels.unimixing, *mixing_inputs(0, 4, 2))
    assert output.shape == grad_x.shape == (0, 8)
    assert not grad_global.any()
    assert not grad_local.any()
    hidden, *gradients = results(kernels.per_token_swiglu, normal(0, 2, 3), normal(2, 3, 8), normal(2, 8))
    assert hidden.shape == (0, 2, 4)
    assert not any(gradient.any() for gradient in gradients)


def two_halves(x_BTD: Tensor, weight_TDO: Tensor, bias_TO: Tensor | None = None) -> Tensor:
    return ops.swiglu(*ops.per_token_linear(x_BTD, weight_TDO, bias_TO).chunk(2, dim=-1))


@DTYPES
@pytest.mark.parametrize(("recompute", "bias"), [(False, True), (False, False), (True, True), (True, False)])
@pytest.mark.parametrize(
    ("batch", "num_tokens", "in_dim", "hidden_dim"), [(1, 2, 3, 5), (3, 24, 6, 7), (33, 3, 40, 70)]
)
def test_per_token_swiglu(
    batch: int, num_tokens: int, in_dim: int, hidden_dim: int, bias: bool, recompute: bool, dtype: torch.dtype
) -> None:
    def kernel(*inputs: Tensor) -> Tensor:
        return kernels.per_token_swiglu(*inputs, recompute=recompute)

    weight = normal(num_tokens, in_dim, 2 * hidden_dim, scale=in_dim**-0.5)
    biases = normal(num_tokens, 2 * hidden_dim) if bias else None
    compare(kernel, two_halves, dtype, normal(batch, num_tokens, in_dim), weight, biases)


def test_up_and_gate_are_kept_for_a_backward_alone() -> None:
    x, weight = normal(2, 3, 4), normal(2, 4, 10)
    assert gated(x, weight, None, True)[1].shape == (2, 3, 10)
    assert gated(x, weight, None, False)[1].numel() == 0


def scores(*shape: int, tau: float, symmetric: bool, factor: float = 1.0) -> Tensor:
    raw = normal(*shape, scale=factor) / tau
    return (raw + raw.mT) / 2 if symmetric else raw


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("size", "tau", "batch"), [(1, 1.0, 2), (2, 0.1, 3), (3, 0.05, 3), (6, 0.05, 2), (24, 0.3, 1)])
def test_sinkhorn_scaling(size: int, tau: float, batch: int, symmetric: bool) -> None:
    given = scores(batch, size, size, tau=tau, symmetric=symmetric)
    plan = kernels.sinkhorn_scaling(given, symmetric, 1e-5, 200)
    expected, steps = scale(given, symmetric, 1e-5, 200)
    assert steps.max() < 200
    assert max((plan.sum(axis) - 1).abs().max().item() for axis in (-1, -2)) < 2e-5
    torch.testing.assert_close(plan, expected, atol=2e-5, rtol=0)
    assert not symmetric or torch.equal(plan, plan.mT)


@pytest.mark.parametrize("symmetric", [True, False])
def test_sinkhorn_scaling_of_a_rule_over_many_tiles_and_of_scores_of_range_ten_thousand(symmetric: bool) -> None:
    rule = ops.permutation_matrix(ops.token_mixing_permutation(12, 12, 12)).to(DEVICE)
    noisy = rule + scores(144, 144, tau=1.0, symmetric=symmetric, factor=0.1)
    for given in (noisy / 0.3, scores(9, 9, tau=3e-4, symmetric=symmetric)):
        plan = kernels.sinkhorn_scaling(given, symmetric, 1e-5, 200)
        torch.testing.assert_close(plan, scale(given, symmetric, 1e-5, 200)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_sinkhorn_scaling_keeps_masks_and_confines_what_is_not_a_number(symmetric: bool) -> None:
    given = scores(3, 5, 5, tau=1.0, symmetric=symmetric)
    given[0, 0, 3:] = given[0, 3:, 0] = -torch.inf
    given[1, 1, 2] = torch.nan
    plan = kernels.sinkhorn_scaling(given, symmetric, 1e-5, 200)
    assert plan[1].isnan().all()
    assert plan[0, 0, 3:].max() < 1e-20
    torch.testing.assert_close(plan[::2], scale(given[::2], symmetric, 1e-5, 200)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_unfinished_scaling_is_rounded_to_sums_of_one(symmetric: bool) -> None:
    plan = kernels.sinkhorn_scaling(scores(2, 6, 6, tau=0.03, symmetric=symmetric), symmetric, 1e-5, 5)
    assert max((plan.sum(axis) - 1).abs().max().item() for axis in (-1, -2)) < 1e-5
    assert plan.min() >= 0
    assert not symmetric or torch.equal(plan, plan.mT)


def test_operators_keep_what_torch_asks_of_them() -> None:
    inputs = tuple(x.requires_grad_() for x in mixing_inputs(5, 3, 2))
    torch.library.opcheck(mix, inputs)
    for bias in (None, normal(2, 6).requires_grad_()):
        x, weight = normal(2, 5, 4).requires_grad_(), normal(2, 4, 6).requires_grad_()
        torch.library.opcheck(gated, (x, weight, bias, True))


MODELS: dict[str, dict[str, Any]] = {
    "unimixer": {"num_tokens": 4, "token_dim": 16, "block_size": 4},
    "unimixer-lite": {"num_tokens": 3, "token_dim": 12, "block_size": 2, "rank": 4},
    "tokenmixer-large": {"num_tokens": 4, "token_dim": 16},
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_backbone_is_the_same_with_kernels(name: str, autocast: bool) -> None:
    backbone = build_backbone(name, **MODELS[name]).to(DEVICE)
    x = normal(5, MODELS[name]["num_tokens"], MODELS[name]["token_dim"])
    found = {}
    for choice in ("reference", "triton"):
        kernels.select(choice)
        backbone.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            output = backbone(x)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output))
        found[choice] = [output.detach(), *(p.grad.clone() for p in backbone.parameters() if p.grad is not None)]
    for value, wanted in zip(found["triton"], found["reference"], strict=True):
        assert value.dtype == wanted.dtype
        tolerance = (0.1 if autocast else 1e-4) * wanted.abs().max().item() + 3e-5  # Sinkhorn's own is 1e-5
        torch.testing.assert_close(value, wanted, atol=tolerance, rtol=0)


def test_a_backbone_with_kernels_compiles_without_a_break_and_exports_for_any_batch() -> None:
    kernels.select("triton")
    backbone = build_backbone("unimixer", **MODELS["unimixer"]).to(DEVICE)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    x = normal(5, 4, 16)
    for left, right in zip(results(compiled, x), results(backbone, x), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(backbone.eval(), (x,), dynamic_shapes=({0: batch},))
    assert "kernel_unimixing" in program.graph_module.code
    assert "kernel_swiglu" in program.graph_module.code
    rows = normal(9, 4, 16)
    torch.testing.assert_close(program.module()(rows), backbone(rows))


def test_the_reference_takes_what_no_kernel_can() -> None:
    kernels.select("triton")
    assert kernels.chosen(normal(2, 2))
    assert not kernels.chosen(normal(2, 2).double())
    assert not kernels.chosen(normal(2, 2), matrix=300)
    assert not kernels.chosen(normal(2, 2), block=32)
    kernels.select("reference")
    assert not kernels.chosen(normal(2, 2))
    with pytest.raises(UnimixerError, match="did you mean 'triton'"):
        kernels.select("tritn")
