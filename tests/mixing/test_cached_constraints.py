"""Matrices of a step computed once: the gradients of the plain way, one call of the solver, nothing left behind."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.mixing import Constrained, MatrixMixing, UniMixing, UniMixingLite, cached_constraints, set_temperature
from unimixer.mixing.constrained import solve_together

LENGTH = 32
KINDS: dict[str, tuple[type[MatrixMixing], dict[str, Any]]] = {
    "unimixing": (UniMixing, {}),
    "lite": (UniMixingLite, {"rank": 4, "num_basis": 3}),
    "general": (UniMixing, {"symmetric": False}),
    "shared": (UniMixingLite, {"rank": 4, "local": "shared"}),
    "free": (UniMixing, {"local": "free", "constraint": "free"}),
}
EACH = pytest.mark.parametrize("kind", list(KINDS))


def stack(kind: str, block_sizes: tuple[int, ...] = (4, 4, 2), tau: float = 0.5) -> nn.Sequential:
    """Layers of two shapes, at temperatures of their own."""
    cls, options = KINDS[kind]
    layers = nn.Sequential(*(cls(LENGTH, size, init="random", **options) for size in block_sizes))
    for index, layer in enumerate(layers):
        set_temperature(layer, tau / (index + 1))
    return layers


def accumulate(layers: Callable[[Tensor], Tensor], x: Tensor) -> None:
    for batch in x.split(4):
        layers(batch).sin().sum().backward()


def gradients(layers: nn.Module) -> list[Tensor]:
    return [p.grad for p in layers.parameters() if p.grad is not None]


@EACH
@pytest.mark.parametrize("tau", [1.0, 0.2])
def test_gradients_are_those_of_the_plain_way(kind: str, tau: float) -> None:
    plain, x = stack(kind, tau=tau).double(), torch.randn(12, LENGTH, dtype=torch.float64)
    once = copy.deepcopy(plain)
    accumulate(plain, x)
    with cached_constraints(once):
        accumulate(once, x)
    assert len(gradients(once)) == len(list(once.parameters()))
    for a, b in zip(gradients(plain), gradients(once), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)


@EACH
def test_for_one_batch_they_are_the_same_bits(kind: str) -> None:
    plain, x = stack(kind), torch.randn(4, LENGTH)
    once = copy.deepcopy(plain)
    accumulate(plain, x)
    with cached_constraints(once):
        accumulate(once, x)
    assert all(map(torch.equal, gradients(plain), gradients(once)))


@EACH
def test_layers_of_one_shape_are_solved_together_to_the_same_bits(kind: str) -> None:
    parts = [part for part in stack(kind, (4,) * 5).modules() if isinstance(part, Constrained)]
    for matrices, part in zip(solve_together(parts), parts, strict=True):
        assert torch.equal(matrices, part.matrices())


def test_the_solver_is_called_once_a_step_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    solver = ops.sinkhorn

    def counted(logits: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(logits.shape))
        return solver(logits, **options)

    monkeypatch.setattr(ops, "sinkhorn", counted)
    layers = stack("lite")
    with cached_constraints(layers):
        accumulate(layers, torch.randn(12, LENGTH))
    assert sorted(shapes) == [(2, 8, 4, 4), (2, 8, 8), (16, 2, 2), (16, 16)]


def test_raw_matrices_get_their_gradient_at_the_end() -> None:
    layers = stack("unimixing")
    with cached_constraints(layers):
        accumulate(layers, torch.randn(12, LENGTH))
        assert gradients(layers) == []
    assert all(bool(gradient.any()) for gradient in gradients(layers))


def test_an_error_in_the_middle_leaves_nothing_behind() -> None:
    layers, x = stack("lite"), torch.randn(8, LENGTH)

    def fail() -> None:
        with cached_constraints(layers):
            accumulate(layers, x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gradients(layers) == []
    assert all(part._held is None for part in layers.modules() if isinstance(part, Constrained))
    accumulate(layers, x)
    assert len(gradients(layers)) == len(list(layers.parameters()))


def test_an_error_of_the_solver_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = stack("lite")
    monkeypatch.setattr(ops, "sinkhorn", None)
    with pytest.raises(TypeError), cached_constraints(layers):
        pass
    assert all(part._held is None for part in layers.modules() if isinstance(part, Constrained))


def test_weights_that_changed_since_are_seen_by_the_next_step() -> None:
    layers, x = stack("unimixing"), torch.randn(4, LENGTH)
    with cached_constraints(layers):
        before = layers(x)
    with torch.no_grad():
        for p in layers.parameters():
            p.add_(torch.randn_like(p))
    with cached_constraints(layers):
        assert torch.equal(layers(x), copy.deepcopy(layers)(x))  # a copy holds nothing
        assert not torch.allclose(layers(x), before)


def test_frozen_matrices_are_held_without_a_gradient() -> None:
    layers = stack("unimixing").requires_grad_(False)
    first = layers[0].global_
    first.requires_grad_(True)
    with cached_constraints(layers):
        accumulate(layers, torch.randn(8, LENGTH))
    assert [p.grad is not None for p in layers.parameters()].count(True) == 1
    assert first.logits.grad is not None


def test_held_matrices_enter_one_compiled_graph() -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    plain, x = stack("lite"), torch.randn(8, LENGTH)
    once = copy.deepcopy(plain)
    compiled = torch.compile(once, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        plain.zero_grad()
        once.zero_grad()
        accumulate(plain, x)
        with cached_constraints(once):
            accumulate(compiled, x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for a, b in zip(gradients(plain), gradients(once), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)
