"""The C kernels on batch-last tokens: the numbers of the references in float64, and what happens without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from unimixer import ops
from unimixer.ops import layout, native

BATCH = 2 * layout.SMALLEST_BATCH + 3  # a whole run of lanes and a rest
needs_kernels = pytest.mark.skipif(native.library() is None, reason="no C compiler builds the kernels here")
Layer = Callable[..., Tensor]


@pytest.fixture
def _fresh() -> Iterator[None]:
    """Forget the library before and after."""
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def single(*shape: int) -> Tensor:
    return (2 * torch.randn(shape)).requires_grad_()


def summed_rms(x: Tensor, added: Tensor, weight: Tensor) -> Tensor:
    return ops.rms_norm(x, weight, added=added)


def summed_layer(x: Tensor, added: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.layer_norm(x, weight, bias, added=added)


def normed_ffn(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    return ops.normed_ffn(x, up, up_bias, down, bias, ops.Norm(weight, None, 1e-6, False))


def mixed_rms(x: Tensor, heads: Tensor | None, weight: Tensor) -> Tensor:
    return ops.mixed_norm(x, heads, ops.Norm(weight, None, 1e-6, False))


def mixed_layer(x: Tensor, heads: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.mixed_norm(x, heads, ops.Norm(weight, bias, 1e-5, True))


def tokens() -> Tensor:
    """Five of them, of width ten: four and a rest in the kernels of mixings."""
    return ops.batch_last(2 * torch.randn(BATCH, 5, 10)).requires_grad_()


SWIGLU = 5, 10, 14
CASES = [
    pytest.param(
        ops.per_token_ffn, lambda: [single(*SWIGLU), single(5, 14), single(5, 7, 10), single(5, 10)], id="swi"
    ),
    pytest.param(
        ops.per_token_ffn, lambda: [single(5, 10, 7), single(5, 7), single(5, 7, 10), single(5, 10)], id="gelu"
    ),
    pytest.param(ops.per_token_ffn, lambda: [single(*SWIGLU), None, single(5, 7, 10), None], id="swiglu-plain"),
    pytest.param(ops.rms_norm, lambda: [single(10)], id="rms"),
    pytest.param(ops.layer_norm, lambda: [single(10), single(10)], id="layer"),
    pytest.param(summed_rms, lambda: [tokens(), single(10)], id="rms-of-sum"),
    pytest.param(summed_layer, lambda: [tokens(), single(10), single(10)], id="layer-of-sum"),
    pytest.param(
        normed_ffn,
        lambda: [single(*SWIGLU), single(5, 14), single(5, 7, 10), single(5, 10), single(10)],
        id="normed-ffn",
    ),
    pytest.param(mixed_rms, lambda: [single(2, 5, 5), single(10)], id="heads-rms"),
    pytest.param(mixed_layer, lambda: [single(5, 5, 5), single(10), single(10)], id="heads-layer"),
    pytest.param(mixed_rms, lambda: [None, single(10)], id="rule-rms"),
    pytest.param(mixed_layer, lambda: [None, single(10), single(10)], id="rule-layer"),
]


@pytest.mark.parametrize("built", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize(("layer", "others"), CASES)
def test_outputs_and_gradients_are_those_of_the_reference_in_float64(
    layer: Layer, others: Callable[[], list[Tensor | None]], built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not built:
        monkeypatch.setattr(native, "library", lambda: None)
    inputs = [tokens(), *others()]
    cotangent = torch.randn(BATCH, 5, 10)
    ours = layer(*inputs)
    given = [one for one in inputs if one is not None]
    gradients = torch.autograd.grad(ours, given, cotangent)
    monkeypatch.setattr(layout, "SMALLEST_BATCH", BATCH + 1)  # the reference runs
    wide = [None if one is None else one.detach().double().requires_grad_() for one in inputs]
    theirs = layer(*wide)
    expected = torch.autograd.grad(theirs, [one for one in wide if one is not None], cotangent.double())
    for got, right in zip([ours, *gradients], [theirs, *expected], strict=True):
        size = right.abs().max().item()
        torch.testing.assert_close(got.double(), right, rtol=0, atol=3e-6 * max(1.0, size))


@needs_kernels
def test_the_number_of_threads_changes_no_bit() -> None:
    inputs = [tokens(), single(5, 10, 14), single(5, 14), single(5, 7, 10), single(5, 10), single(10), single(2, 5, 5)]

    def results() -> list[Tensor]:
        hidden = ops.rms_norm(inputs[0], inputs[5], added=ops.per_token_ffn(*inputs[:5]))
        hidden = mixed_rms(hidden, inputs[6], inputs[5])
        return [hidden, *torch.autograd.grad(hidden.square().sum(), inputs)]

    alone = results()
    torch.set_num_threads(2)
    try:
        together = results()
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, alone, together))


@needs_kernels
def test_a_number_that_is_not_finite_stays_so() -> None:
    wide = torch.zeros(1, 4, BATCH)
    wide[0, 2, 7] = float("nan")
    assert native.activate(wide, None, 2).isnan().nonzero().tolist() == [[0, 0, 7]]
    assert native.activate(wide, None, 4).isnan().nonzero().tolist() == [[0, 2, 7]]
    normed, _, _ = native.norm(wide, None, torch.ones(4), None, 1e-6, True)
    assert normed.isnan().sum((0, 1)).nonzero().tolist() == [[7]]


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(("name", "value"), [("CC", "false"), ("CC", "no-such-compiler"), ("UNIMIXER_NATIVE", "0")])
def test_without_a_compiler_there_is_no_library(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library() is None
    assert not native.fits(torch.zeros(2))


@needs_kernels
@pytest.mark.usefixtures("_fresh")
def test_the_library_is_built_once_for_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library() is not None
    (built,) = (tmp_path / "unimixer").iterdir()
    before = built.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert built.stat().st_mtime_ns == before


@needs_kernels
def test_tensors_without_memory_of_their_own_are_left_to_torch() -> None:
    real = torch.zeros(3, 5, 4)
    assert native.fits(real, torch.nn.Parameter(real), None)
    with FakeTensorMode():
        assert not native.fits(torch.zeros(3, 5, 4))  # its address is null
    assert not native.fits(real.to("meta"))
    assert not native.fits(real.double())
    assert not native.fits(real.mT)
