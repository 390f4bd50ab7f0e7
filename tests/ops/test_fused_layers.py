"""The eager twins on batch-last tokens: outputs and gradients of their references, on their own and in a stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer import ops
from unimixer.backbones import build_backbone
from unimixer.blocks.readout import MeanPooling
from unimixer.ops import layout, native
from unimixer.ops.norm import fused as norm
from unimixer.ops.per_token import fused as ffn

BATCH = layout.SMALLEST_BATCH + 3


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def tokens_of(width: int, fast: Callable[..., Tensor]) -> Tensor:
    """Tokens as the twin takes them: the first layer of a stack takes contiguous ones."""
    tokens = torch.randn(BATCH, 3, width, dtype=torch.float64)
    return (tokens if fast is ops.per_token_linear_last else ops.batch_last(tokens)).requires_grad_()


def ffn_weights(*, gated: bool, bias: bool) -> list[Tensor | None]:
    up, hidden = (10, 5) if gated else (5, 5)
    return [double(3, 4, up), double(3, up) if bias else None, double(3, hidden, 4), double(3, 4) if bias else None]


def layer_norm_without_bias(x: Tensor, weight: Tensor) -> Tensor:
    return ops.layer_norm(x, weight)


def layer_norm_reference_without_bias(x: Tensor, weight: Tensor) -> Tensor:
    return ops.layer_norm_reference(x, weight)


FFNS = [
    pytest.param(ops.per_token_ffn, ops.per_token_ffn_reference, lambda g=g, b=b: ffn_weights(gated=g, bias=b), id=name)
    for name, g, b in (("swiglu", True, True), ("gelu", False, True), ("swiglu-plain", True, False))
]
FFNS += [
    pytest.param(ops.per_token_linear_last, ops.per_token_linear, lambda b=b: [double(3, 4, 4), b], id=name)
    for name, b in (("linear", double(3, 4)), ("linear-plain", None))
]
NORMS = [
    pytest.param(ops.rms_norm, ops.rms_norm_reference, lambda: [double(4)], id="rms"),
    pytest.param(ops.layer_norm, ops.layer_norm_reference, lambda: [double(4), double(4)], id="layer"),
    pytest.param(
        layer_norm_without_bias, layer_norm_reference_without_bias, lambda: [double(4)], id="layer-without-bias"
    ),
]
TWINS = pytest.mark.parametrize(("fast", "reference", "weights"), [*FFNS, *NORMS])
Fast, Weights = Callable[..., Tensor], Callable[[], list[Tensor | None]]


@pytest.fixture(params=[1, 2, 3], ids=lambda size: f"groups-of-{size}")
def _grouped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of one token, of two and a rest of one, and of all three."""
    monkeypatch.setattr(ffn, "GROUP", request.param * BATCH * 10 * 8)
    monkeypatch.setattr(norm, "GROUP", request.param * BATCH * 4)


@TWINS
@pytest.mark.usefixtures("_grouped")
@pytest.mark.parametrize("gradient_last", [True, False])
def test_twin_equals_reference(fast: Fast, reference: Fast, weights: Weights, gradient_last: bool) -> None:
    x, given = tokens_of(4, fast), weights()
    ours, theirs = fast(x, *given), reference(x, *given)
    assert ours.grad_fn is not None
    assert "Function" in ours.grad_fn.name()  # the twin ran
    assert layout.is_batch_last(ours)
    torch.testing.assert_close(ours, theirs)
    cotangent = torch.randn(ours.shape, dtype=torch.float64)
    inputs = [x, *(weight for weight in given if weight is not None)]
    for got, expected in zip(
        torch.autograd.grad(ours, inputs, ops.batch_last(cotangent) if gradient_last else cotangent),
        torch.autograd.grad(theirs, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@TWINS
def test_gradients_of_first_and_second_order(fast: Fast, reference: Fast, weights: Weights) -> None:
    x, given = tokens_of(4, fast), weights()
    inputs = [x, *(weight for weight in given if weight is not None)]

    def restored(*tensors: Tensor) -> Tensor:
        queue = iter(tensors[1:])
        return fast(tensors[0], *(None if weight is None else next(queue) for weight in given))

    assert torch.autograd.gradcheck(restored, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(restored, inputs, fast_mode=True)


@TWINS
def test_without_gradients_the_twin_gives_the_same(fast: Fast, reference: Fast, weights: Weights) -> None:
    x, given = tokens_of(4, fast), weights()
    with torch.inference_mode():
        torch.testing.assert_close(fast(x, *given), reference(x, *given))


def bfloat16(tensor: Tensor | None) -> Tensor | None:
    """A leaf in float32 whose numbers bfloat16 holds."""
    return None if tensor is None else tensor.detach().bfloat16().float().requires_grad_()


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize(("dtype", "kernels"), [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, True)])
@pytest.mark.parametrize(("fast", "reference", "weights"), FFNS)
def test_under_autocast_products_are_halved_and_the_rest_is_float32(
    fast: Fast, reference: Fast, weights: Weights, dtype: torch.dtype, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(native, "library", lambda: None)
    leaves = [bfloat16(tensor) for tensor in (tokens_of(4, fast), *weights())]
    cotangent, inputs = torch.randn(BATCH, 3, 4), [leaf for leaf in leaves if leaf is not None]
    with torch.autocast("cpu", dtype=dtype):
        ours = fast(*leaves)
        with torch.no_grad():
            assert torch.equal(fast(*leaves), ours)
    theirs = reference(*leaves)
    assert ours.dtype == torch.float32
    assert "Function" in ours.grad_fn.name()  # the twin ran
    assert 0 < relative(ours, theirs) < 0.01  # bfloat16 has a relative precision of 1 / 256
    for got, expected in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(theirs, inputs, cotangent), strict=True
    ):
        assert got.dtype == torch.float32
        assert relative(got, expected) < 0.01


def test_the_norm_of_a_layer_under_autocast_is_the_float32_one_of_its_bfloat16_products() -> None:
    x, weight = bfloat16(ops.batch_last(torch.randn(BATCH, 3, 4))), torch.ones(4, requires_grad=True)
    weights = [bfloat16(tensor) for tensor in ffn_weights(gated=True, bias=True)]
    norm_arguments = ops.Norm(weight, None, 1e-6, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = ops.normed_ffn(x, *weights, norm_arguments)
        apart = ops.rms_norm(x, weight, 1e-6, ops.per_token_ffn(x, *weights))
    torch.testing.assert_close(together, apart)
    cotangent, inputs = torch.randn(BATCH, 3, 4), [x, weight, *weights]
    for got, expected in zip(
        torch.autograd.grad(together, inputs, cotangent), torch.autograd.grad(apart, inputs, cotangent), strict=True
    ):
        assert relative(got, expected) < 0.01


def test_numbers_become_bfloat16_as_torch_rounds_them() -> None:
    if native.library() is None:
        pytest.skip("no C compiler builds the kernels here")
    wide = torch.tensor([1.0, 1.00390625, -2.71828, 3e38, float("inf"), float("nan"), 1e-40]).view(1, 1, -1).bfloat16()
    gate = torch.full_like(wide, 100.0)  # its sigmoid is 1, so that the product is 100 times the number
    hidden = native.activate(torch.cat([wide, gate], 1), None, 1)
    torch.testing.assert_close(hidden, (wide.float() * 100).bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_unimixing_and_token_mixing_of_batch_last_tokens_need_no_copy_and_give_the_same() -> None:
    x = torch.randn(BATCH, 4, 8)
    last = ops.batch_last(x)
    global_, local = torch.randn(16, 16), torch.randn(16, 2, 2)
    mixed = ops.unimixing(last.flatten(1), global_, local)
    assert last.flatten(1).data_ptr() == last.data_ptr()  # a view
    assert mixed.stride(0) == 1
    torch.testing.assert_close(mixed, ops.unimixing(x.flatten(1), global_, local))
    moved = ops.token_mixing(last, 4)
    assert layout.is_batch_last(moved)
    assert torch.equal(moved, ops.token_mixing(x, 4))


def test_layouts_change_no_number_and_turn_gradients_round() -> None:
    x = torch.randn(BATCH, 3, 4, requires_grad=True)
    last = ops.batch_last(x)
    first = ops.batch_first(last)
    assert layout.is_batch_last(last)
    assert first.is_contiguous()
    assert torch.equal(last, x)
    assert torch.equal(first, x)
    cotangent = torch.randn(BATCH, 3, 4)
    (gradient,) = torch.autograd.grad(first, x, cotangent)
    assert torch.equal(gradient, cotangent)
    assert gradient.is_contiguous()


def test_small_batches_halved_tokens_and_compilers_keep_the_plain_form() -> None:
    x = torch.randn(BATCH, 3, 4)
    assert ops.batch_last(x[:2]) is not None
    assert not layout.is_batch_last(ops.batch_last(x[:2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layout.is_batch_last(ops.batch_last(x))
        assert not layout.is_batch_last(ops.batch_last(x.bfloat16()))
    compiled = torch.compile(ops.batch_last, backend="eager", fullgraph=True)
    assert not layout.is_batch_last(compiled(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unimixer-lite", {}),
        ("unimixer", {"ffn": "gelu", "norm": "layer"}),
        ("unimixer-lite", {"residual": "siamese"}),
        ("unimixer", {"residual": "pre", "local": "shared"}),
        ("rankmixer", {}),
        ("rankmixer", {"ffn": "swiglu"}),
        ("rankmixer", {"ffn": "topk-moe"}),
    ],
)
def test_a_stack_gives_the_same_in_both_layouts(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = build_backbone(name, num_tokens=4, token_dim=16, **options).double()
    x, cotangent = torch.randn(2, BATCH, 4, 16, dtype=torch.float64)
    results = []
    for smallest in (layout.SMALLEST_BATCH, BATCH + 1):
        monkeypatch.setattr(layout, "SMALLEST_BATCH", smallest)
        entering = x.clone().requires_grad_()
        output = backbone(entering)
        results.append([output, *torch.autograd.grad(output, [entering, *backbone.parameters()], cotangent)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_the_mean_of_batch_last_tokens_and_its_gradient_need_no_transposition() -> None:
    x = torch.randn(BATCH, 3, 4, dtype=torch.float64)
    tokens = ops.batch_last(x).requires_grad_()
    pooled = MeanPooling()(tokens)
    torch.testing.assert_close(pooled, x.mean(1))
    cotangent = torch.randn(BATCH, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(pooled, tokens, cotangent)
    assert layout.is_batch_last(gradient)
    torch.testing.assert_close(gradient, cotangent.unsqueeze(1).expand(-1, 3, -1) / 3)


@pytest.mark.parametrize("name", ["unimixer-lite", "rankmixer"])
def test_hooks_hear_of_layers_that_otherwise_are_one_operation_with_their_norm(name: str) -> None:
    backbone = build_backbone(name, num_tokens=4, token_dim=16)
    x, heard = torch.randn(BATCH, 4, 16), []
    together = backbone(x)
    parts = [part for stack in (backbone.stack.sublayers, backbone.stack.norms) for part in stack]
    for part in parts:
        part.register_forward_hook(lambda module, inputs, output: heard.append(module))
    torch.testing.assert_close(backbone(x), together)
    assert set(heard) == set(parts)
