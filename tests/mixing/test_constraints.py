"""Learned mixings under every constraint: written formulas in float64, gradients, properties, evaluation, mistakes."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from learned_forms import FORMS, SIGNED, B, D, T, build
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError
from unimixer.mixing import (
    Constrained,
    Mixing,
    TokenMixing,
    UniMixing,
    UniMixingLite,
    cached_constraints,
    discretize,
    freeze,
    set_temperature,
)
from unimixer.mixing.constraint import Constraint
from unimixer.mixing.generated import drawn_permutations
from unimixer.ops import sinkhorn_reference

EACH = pytest.mark.parametrize("form", list(FORMS))
N = T * D // B


def tokens(batch: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(seed))


def drawn(form: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return build(form, **options).double()


def kronecker(share: Tensor) -> Tensor:
    product = torch.ones(1, 1, dtype=torch.float64)
    for a in share.tolist():
        product = torch.kron(product, torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.float64))
    return product


def by_the_formula(part: Constrained, permutation: Tensor) -> Tensor:
    """The matrices as docs/models.md writes them, around the permutation matrix P."""
    constraint, raw, tau = part.constraint, part.raw().detach(), part.temperature.item()
    if constraint.kind == "permutations":
        every = torch.cat([part.around.unsqueeze(0), drawn_permutations(N, len(raw) - 1, pairs=part.symmetric)])
        weights = (raw / tau).exp() / (raw / tau).exp().sum()
        matrices = sum(w * torch.eye(N, dtype=torch.float64)[order] for w, order in zip(weights, every, strict=True))
    elif constraint.kind == "kronecker":
        share = 1 / (1 + (-raw / tau).exp())
        matrices = kronecker(share[0]) @ permutation @ kronecker(share[-1])
    elif constraint.kind == "unit-rows":
        matrices = raw / raw.square().sum(-1, keepdim=True).sqrt()
    elif constraint.kind == "orthogonal":
        skew, eye = (raw - raw.mT) / 2, torch.eye(raw.shape[-1], dtype=torch.float64)
        matrices = permutation @ torch.linalg.inv(eye + skew) @ (eye - skew)
    else:
        matrices = (raw + raw.mT) / 2 if constraint.symmetric else raw
        if constraint.kind == "sinkhorn":
            scores = matrices / tau
            spread = scores.amax((-2, -1), keepdim=True) - scores.amin((-2, -1), keepdim=True)
            scores = scores if constraint.range_cap is None else scores * (constraint.range_cap / spread).clamp(max=1)
            matrices = sinkhorn_reference(scores, symmetric=part.symmetric, tolerance=1e-12)
    if constraint.gate is None:
        return matrices
    a = 1 / (1 + math.exp(-part.gate.item()))
    return (1 - a) * permutation + a * matrices


@EACH
def test_matrices_are_those_of_the_written_formula(form: str) -> None:
    mixing = drawn(form)
    started = form in ("orthogonal", "orthogonal, low rank") or mixing.global_.constraint.surrounds_permutation
    rule = ops.permutation_matrix(ops.token_mixing_permutation(T, D // B, T)).double()
    around = rule if started else torch.eye(N, dtype=torch.float64)
    between, inside = mixing.weights()
    torch.testing.assert_close(between, by_the_formula(mixing.global_, around), atol=1e-5, rtol=0)
    expected = by_the_formula(mixing.local, torch.eye(B, dtype=torch.float64))
    torch.testing.assert_close(inside, expected, atol=1e-5, rtol=0)


@EACH
def test_gradients_of_all_numbers_are_those_of_finite_differences(form: str) -> None:
    mixing = drawn(form)
    for part in (mixing.global_, mixing.local):
        names, numbers = zip(*part.named_parameters(), strict=True)
        direction = torch.randn_like(part.matrices().detach())

        def weighed(*values: Tensor, part: Any = part, names: Any = names, direction: Tensor = direction) -> Tensor:
            state = dict(zip(names, values, strict=True))
            return (
                torch.func.functional_call(_Matrices(part), {f"part.{k}": v for k, v in state.items()}) * direction
            ).sum()

        assert torch.autograd.gradcheck(weighed, numbers, eps=1e-6, atol=2e-3, rtol=2e-3, fast_mode=True)


class _Matrices(nn.Module):
    def __init__(self, part: Constrained) -> None:
        super().__init__()
        self.part = part

    def forward(self) -> Tensor:
        return self.part._constrain(self.part.raw())


@EACH
def test_matrices_have_the_properties_that_their_words_name(form: str) -> None:
    mixing = build(form)
    for part in (mixing.global_, mixing.local):
        assert isinstance(part, Constrained)
        matrices, words = part.matrices().detach(), part.constraints()
        assert ("symmetric" in words) <= torch.equal(matrices, matrices.mT)
        ones = torch.ones(matrices.shape[:-1])
        if "doubly stochastic" in words:
            assert matrices.min() >= 0
            for axis in (-1, -2):
                torch.testing.assert_close(matrices.sum(axis), ones, atol=1e-4, rtol=0)
        if "unit norm" in words:
            torch.testing.assert_close(matrices.norm(dim=-1), ones)
        if "orthogonal" in words:
            eye = torch.eye(matrices.shape[-1]).expand_as(matrices)
            torch.testing.assert_close(matrices @ matrices.mT, eye, atol=1e-5, rtol=0)


@EACH
def test_every_number_gets_a_gradient_at_the_start(form: str) -> None:
    torch.manual_seed(0)
    mixing = build(form)
    (mixing(tokens()) * tokens(seed=1)).sum().backward()
    for name, parameter in mixing.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 1e-4, name


@EACH
def test_a_mixing_equals_its_matrix_and_its_copy_of_constants(form: str) -> None:
    mixing, x = build(form), tokens()
    torch.testing.assert_close(mixing(x).flatten(1), x.flatten(1) @ mixing.mixing_matrix().T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(Mixing.mixing_matrix(mixing), mixing.mixing_matrix(), atol=1e-5, rtol=1e-5)
    fixed = freeze(mixing)
    assert not list(fixed.parameters())
    with torch.no_grad():
        assert torch.equal(fixed(x), mixing.eval()(x))
    assert discretize(mixing, "permutation")(x).shape == x.shape


@EACH
def test_a_step_of_several_batches_solves_once_with_the_gradients_of_the_plain_way(form: str) -> None:
    plain = nn.Sequential(build(form), build(form)).double()
    once, x = copy.deepcopy(plain), tokens(12).double()
    for batch in x.split(4):
        plain(batch).sin().sum().backward()
    with cached_constraints(once):
        for batch in x.split(4):
            once(batch).sin().sum().backward()
    for a, b in zip(plain.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-8, atol=1e-10)


@EACH
def test_the_cache_of_evaluation_sees_changed_numbers_and_temperatures(form: str) -> None:
    mixing, x = build(form).eval(), tokens()
    with torch.no_grad():
        mixing(x)
        for parameter in mixing.parameters():
            parameter.add_(torch.rand_like(parameter))
        assert torch.equal(mixing(x), copy.deepcopy(mixing)(x))
        before = mixing(x)
        set_temperature(mixing, 1.5)
        warm = not torch.allclose(mixing(x), before)
    assert warm == (mixing.global_.doubly_stochastic or mixing.local.doubly_stochastic)  # type: ignore[union-attr]


@EACH
def test_bf16_autocast_keeps_the_matrices_in_float32(form: str) -> None:
    mixing = build(form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(weight.dtype == torch.float32 for weight in mixing.weights())
        for weight, expected in zip(mixing.weights(), copy.deepcopy(mixing).weights(), strict=True):
            torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)


@EACH
def test_parameters_follow_the_formula(form: str) -> None:
    mixing = build(form)
    assert sum(p.numel() for p in mixing.parameters()) == type(mixing).num_parameters(T * D, B, **FORMS[form])


@pytest.mark.parametrize("form", ["unit rows", "orthogonal", "free"])
def test_signed_mixings_start_from_the_rule_itself(form: str) -> None:
    assert torch.equal(build(form)(tokens()), TokenMixing(T, D, T)(tokens()))


def test_a_low_rank_turn_starts_close_to_the_rule() -> None:
    torch.testing.assert_close(
        build("orthogonal, low rank")(tokens()), TokenMixing(T, D, T)(tokens()), atol=0.05, rtol=0
    )


def test_an_orthogonal_start_is_orthogonal() -> None:
    weight = build("free, orthogonal").weights()[0]
    torch.testing.assert_close(weight @ weight.T, torch.eye(N), atol=1e-5, rtol=0)


def test_a_gate_starts_at_its_share_and_can_open_and_close() -> None:
    mixing = build("gated, low rank")
    part = mixing.global_
    assert isinstance(part, Constrained)
    assert part.gate.sigmoid().item() == pytest.approx(0.05)
    rule = TokenMixing(T, D, T).mixing_matrix()
    with torch.no_grad():
        for module in (mixing.global_, mixing.local):
            module.gate.fill_(-40.0)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(mixing.mixing_matrix(), rule)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_drawn_permutations_are_the_same_everywhere_and_pairs_are_their_own_inverse(size: int) -> None:
    for pairs in (False, True):
        found = drawn_permutations(size, 4, pairs=pairs)
        torch.manual_seed(5)
        assert torch.equal(found, drawn_permutations(size, 4, pairs=pairs))
        assert torch.equal(found.sort(1).values, torch.arange(size).expand(4, size))
        assert not pairs or torch.equal(found.gather(1, found), torch.arange(size).expand(4, size))


RULE: dict[str, Any] = {"num_heads": 4}
REFUSED: list[tuple[type[Any], dict[str, Any], str]] = [
    (UniMixing, {"constraint": "unit-row"}, "constraint='unit-row' is not one of sinkhorn, permutations, kronecker"),
    (UniMixing, {"constraint": "orthogonal"}, "constraint='orthogonal' gives no symmetric matrices; set symmetric"),
    (UniMixing, {"gate": 1.0}, "gate=1 must lie between 0 and 1, such as 0.05"),
    (UniMixing, {"gate": 0.1, "constraint": "unit-rows", **SIGNED}, "gate=0.1: a sum with a permutation is no longer"),
    (UniMixing, {"range_cap": 0}, "range_cap=0 must be greater than 0"),
    (UniMixing, {"range_cap": 2, "constraint": "free"}, "range_cap=2 bounds what Sinkhorn gets, and constraint='free'"),
    (UniMixing, {"init": "orthogonal"}, "init='orthogonal' is a start of matrices that may be orthogonal: set"),
    (UniMixing, {"constraint": "permutations", "num_permutations": 0}, "num_permutations=0 must be greater than 0"),
    (UniMixing, {"gate": 0.1, "init": torch.arange(16).roll(1)}, "is not its own inverse, so that sums and products"),
    (UniMixingLite, {"constraint": "permutations"}, "has no raw matrix of low rank; set rank: null, or take backbone"),
    (UniMixingLite, {"constraint": "unit-rows", **SIGNED}, "init='rule' is no matrix of low rank with constraint="),
]


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED, ids=[message[:30] for *_, message in REFUSED])
def test_what_does_not_go_together_is_refused(kind: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        kind(64, 4, **{**RULE, **options})


def test_a_gate_without_a_permutation_is_refused() -> None:
    with pytest.raises(UnimixerError, match="a gate needs the permutation of its blocks; pass around, such as"):
        Constrained(Constraint(gate=0.1))


def test_a_kronecker_product_needs_a_power_of_two() -> None:
    with pytest.raises(UnimixerError, match=r"needs a power of two as number of blocks, .*, and it is 36; choose"):
        UniMixing(36 * 4, 4, num_heads=6, constraint="kronecker")
