"""The C kernels on batch-last tokens: the numbers of the references in float64, and what happens without them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from ctypes import CDLL, c_long
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unimixer import ops
from unimixer.features.embedding import PackedEmbedding, merge_rows
from unimixer.ops import layout, native
from unimixer.ops.native import scoring
from unimixer.ops.per_token import fused as ffn
from unimixer.training.optimizers import RowSparseAdam

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


@pytest.fixture(scope="module", params=["this processor", "x86-64-v3", "x86-64", "none"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CDLL | None:
    """The kernels for registers of any width, and none."""
    if request.param == "none":
        return None
    if native.library() is None:
        pytest.skip("no C compiler builds the kernels here")
    if request.param == "this processor":
        return native.library()
    if platform.machine() != "x86_64":
        pytest.skip("the narrow registers are those of another processor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "FLAGS", ("-O1", f"-march={request.param}", "-fopenmp", "-shared", "-fPIC"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kernels")))
        narrow = native.library.__wrapped__()
    assert narrow is not None
    return narrow


@pytest.mark.parametrize(("layer", "others"), CASES)
def test_outputs_and_gradients_are_those_of_the_reference_in_float64(
    layer: Layer, others: Callable[[], list[Tensor | None]], kernels: CDLL | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "library", lambda: kernels)
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
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("width", "hidden"), [(1, 1), (16, 6), (33, 49), (70, 100)])
@pytest.mark.parametrize("biased", [False, True])
def test_an_ffn_of_any_width_is_the_reference_in_float64(
    width: int, hidden: int, gated: bool, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths with rests of tiles and lanes, hidden units with rests of the units that go through a strip together."""
    units = hidden * (1 + gated)
    inputs = [ops.batch_last(torch.randn(BATCH, 2, width)), torch.randn(2, width, units) / width**0.5]
    inputs += [torch.randn(2, units), torch.randn(2, hidden, width) / hidden**0.5, torch.randn(2, width)]
    inputs = [*inputs, torch.rand(width) + 0.5, torch.randn(width)]
    kept = [place for place in range(7) if biased or place not in (2, 4, 6)]
    cotangent, results = torch.randn(BATCH, 2, width), []
    for dtype in (torch.float32, torch.float64):
        leaves = {place: inputs[place].to(dtype).requires_grad_() for place in kept}
        x, *weights, weight, bias = (leaves.get(place) for place in range(7))
        assert x is not None
        assert weight is not None
        assert ffn.in_kernel(x, tuple(weights), dtype, (weight, bias)) is (dtype == torch.float32)
        plain = ops.per_token_ffn(x, *weights)
        normed = ops.normed_ffn(x, *weights, ops.Norm(weight, bias, 1e-2, True))
        outputs = [plain, normed]
        gradients = torch.autograd.grad(outputs, list(leaves.values()), [cotangent.to(dtype)] * 2)
        with torch.no_grad():
            assert torch.equal(ops.per_token_ffn(x, *weights), plain)
        results.append([*outputs, *gradients])
    for got, right in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), right, rtol=0, atol=3e-6 * max(1.0, right.abs().max().item()))


@needs_kernels
@pytest.mark.parametrize("gated", [False, True])
def test_activations_and_their_slopes_are_exact_to_the_precision_of_float32(gated: bool) -> None:
    x = torch.linspace(-12, 12, 40_001).view(1, 1, -1)
    wide = torch.cat([torch.ones_like(x), x], 1) if gated else x
    right = x.double().requires_grad_()
    activated = torch.nn.functional.silu(right) if gated else torch.nn.functional.gelu(right)
    (slope,) = torch.autograd.grad(activated.sum(), right)
    hidden, to_wide, _ = native.activate_backward(wide, None, torch.ones_like(x))
    assert torch.equal(native.activate(wide, None, 1), hidden)
    bound = 2e-7 * x.abs().clamp(min=1)
    assert ((hidden - activated).abs() <= bound).all()
    assert ((to_wide[:, -1:] - slope).abs() <= bound).all()


@needs_kernels
def test_where_products_are_counted_or_threads_outnumber_tokens_torch_multiplies() -> None:
    inputs = [tokens(), single(5, 10, 7), None, single(5, 7, 10), None]
    with FlopCounterMode(display=False) as counter:
        ops.per_token_ffn(*inputs)
    assert counter.get_total_flops() == 2 * 2 * BATCH * 5 * 10 * 7
    alone = ops.per_token_ffn(*inputs)
    torch.set_num_threads(6)
    try:
        assert not ffn.in_kernel(inputs[0], inputs[1:], torch.float32)
        together = ops.per_token_ffn(*inputs)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(together, alone)


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


@needs_kernels
@pytest.mark.parametrize("num_rows", [1, 2, 2048, 2049, 5_000_000, 2**32, 2**32 + 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_merged_gradients_of_rows_are_those_of_torch_bit_for_bit(
    num_rows: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.cat([torch.randint(num_rows, (300,)), torch.tensor([num_rows - 1, 0, num_rows - 1])])
    source, gradients = torch.randint(40, (303,)), torch.randn(40, 5)
    assert native.merges([rows, source], [gradients], num_rows) is (num_rows <= 2**32)
    torch.set_num_threads(threads)
    try:
        ours = merge_rows(rows, source, gradients, num_rows)
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(native, "library", lambda: None)
    theirs = merge_rows(rows, source, gradients, num_rows)
    assert torch.equal(ours.indices(), theirs.indices())
    assert torch.equal(ours.values(), theirs.values())


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("fields", "lengths"), [(3, [0, 70, 0, 300, 1]), (0, [3, 2]), (2, [0, 0]), (1, [])])
def test_gradients_of_lookups_are_those_of_torch_bit_for_bit(
    threads: int, fields: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, results = PackedEmbedding({"a": 50, "b": 9}, 5), []
    rows, bags = torch.randint(59, (90, fields)), torch.randint(59, (sum(lengths),))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    cotangents = torch.randn(90, fields, 5), torch.randn(len(lengths), 5)
    for built in (True, False):
        if not built:
            monkeypatch.setattr(native, "library", lambda: None)
        torch.set_num_threads(threads if built else 1)
        try:
            outputs = tables.lookup(rows, bags, offsets)
            results.append(torch.autograd.grad(outputs, tables.weight, cotangents)[0])
        finally:
            torch.set_num_threads(1)
    assert torch.equal(*results)


@needs_kernels
def test_an_empty_batch_meets_no_rows() -> None:
    nothing = torch.empty(0, dtype=torch.long)
    assert merge_rows(nothing, nothing, torch.empty(0, 4), 9)._nnz() == 0


@pytest.mark.parametrize("built", [pytest.param(True, marks=needs_kernels), False])
def test_adam_moves_the_rows_of_a_step_and_no_others(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not built:
        monkeypatch.setattr(native, "library", lambda: None)
    start = torch.randn(50, 6)
    weights = [torch.nn.Parameter(start.to(dtype)) for dtype in (torch.float32, torch.float64)]
    optimizers = [RowSparseAdam([weight], lr=0.05) for weight in weights]
    for step in range(4):
        rows, gradient = torch.randperm(49)[:20].sort().values + (step > 1), torch.randn(20, 6)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            values = gradient.to(weight.dtype)
            weight.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), values, weight.shape, check_invariants=True)
            optimizer.step()
    ours, theirs = weights
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)
    for state in ("exp_avg", "exp_avg_sq"):
        states = [optimizer.state[weight][state] for weight, optimizer in zip(weights, optimizers, strict=True)]
        torch.testing.assert_close(states[0].double(), states[1], rtol=1e-5, atol=1e-7)
    met = torch.zeros(50, dtype=torch.bool)
    met[optimizers[0].state[ours]["exp_avg_sq"].sum(1) > 0] = True
    assert torch.equal(ours[~met], start[~met])


@needs_kernels
def test_whole_numbers_of_an_optimizer_are_taken_as_real_ones() -> None:
    moved = []
    for betas, eps in (((0, 0.5), 1), ((0.0, 0.5), 1.0)):
        weight = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = RowSparseAdam([weight], lr=1, betas=betas, eps=eps)
        weight.grad = torch.sparse_coo_tensor([[1]], torch.tensor([[1.0, -2]]), (3, 2), check_invariants=True)
        optimizer.step()
        moved.append(weight.detach())
    assert torch.equal(*moved)
    assert not torch.equal(moved[0][1], torch.ones(2))


@needs_kernels
def test_a_kernel_without_a_result_has_no_type_of_one() -> None:
    ops.rms_norm(tokens(), torch.ones(10))
    merge_rows(torch.tensor([2, 0, 2]), torch.arange(3), torch.ones(3, 4), 3)
    kernels, scorer = native.library(), scoring.library()
    assert kernels is not None
    assert scorer is not None
    assert kernels.norm.restype is None
    assert kernels.merge_rows.restype is c_long
    assert scorer.run_steps.restype is None
