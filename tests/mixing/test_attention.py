"""Softmax attention as a global pattern, and the maps that it projects with."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.mixing import (
    BasisLinear,
    BlockLinear,
    CompositeLinear,
    Local,
    SharedLinear,
    SoftmaxAttention,
    Unified,
    materialize,
)

Make = Callable[[int, int, int], Local]
LOCALS: dict[str, Make] = {
    "shared": SharedLinear,
    "own": BlockLinear,
    "composite": CompositeLinear,
    "composite, low rank": lambda n, b, c: CompositeLinear(n, b, c, 3),
    "bases": lambda n, b, c: BasisLinear(n, b, c, num_basis=4, field_dim=3),
    "some bases": lambda n, b, c: BasisLinear(n, b, c, num_basis=4, field_dim=3, top_k=2),
}
EVERY = pytest.mark.parametrize("make", list(LOCALS.values()), ids=list(LOCALS))


@EVERY
def test_a_local_pattern_equals_its_matrix(make: Make) -> None:
    local, x = make(3, 4, 6), torch.randn(5, 3, 4)
    expected = torch.einsum("ncl,bl->bnc", local.matrix(), x.flatten(1))
    torch.testing.assert_close(local(x), expected, atol=1e-5, rtol=1e-5)
    assert local.out_blocks == 3


@EVERY
@pytest.mark.parametrize("modulated", [False, True])
def test_attention_equals_its_matrix(make: Make, modulated: bool) -> None:
    attention = SoftmaxAttention(make(3, 4, 6), make(3, 4, 6), num_heads=2, modulated=modulated, per_head=modulated)
    if attention.modulation is not None:
        torch.nn.init.normal_(attention.modulation)
    mixing, x = Unified(make(3, 4, 8), attention), torch.randn(5, 3, 4)
    matrix = mixing.mixing_matrix(x)
    assert matrix.shape == (5, 3 * 8, 3 * 4)
    expected = torch.einsum("bij,bj->bi", matrix, x.flatten(1))
    torch.testing.assert_close(mixing(x).flatten(1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_blocks", [3, 31, 32, 40])
@pytest.mark.parametrize(("width", "heads", "value_width"), [(8, 2, 8), (8, 2, 16), (130, 1, 8)])
@pytest.mark.parametrize("scaled", [True, False])
def test_fast_attention_equals_the_definition(
    num_blocks: int, width: int, heads: int, value_width: int, scaled: bool
) -> None:
    query, key = (BlockLinear(num_blocks, 8, width) for _ in range(2))
    attention = SoftmaxAttention(query, key, num_heads=heads, scaled=scaled).double()
    x, values = (torch.randn(2, num_blocks, c, dtype=torch.float64, requires_grad=True) for c in (8, value_width))
    output = attention(x, values)
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (query(x), key(x), values))
    logits = q @ k.mT / ((width / heads) ** 0.5 if scaled else 1)
    expected = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(output, expected)
    weight, sources = torch.randn_like(output), [x, values, *attention.parameters()]
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), sources) for y in (output, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_both_ways_to_attend_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(query: Tensor, *args: Tensor, **options: float) -> Tensor:
        calls.append(query.shape[-2])
        return fused(query, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    for num_blocks, modulated in ((16, False), (32, False), (32, True)):
        query, key = (SharedLinear(num_blocks, 8, 8) for _ in range(2))
        attention = SoftmaxAttention(query, key, num_heads=2, modulated=modulated)
        attention(torch.randn(2, num_blocks, 8), torch.randn(2, num_blocks, 8))
    assert calls == [32]


def test_weights_are_a_distribution_over_keys() -> None:
    attention = SoftmaxAttention(BlockLinear(5, 4, 8), BlockLinear(5, 4, 8), num_heads=2, modulated=True)
    weights = attention.weights(torch.randn(3, 5, 4))
    assert weights.shape == (3, 2, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 5))


def test_fewer_queries_than_keys() -> None:
    query, key = CompositeLinear(5, 4, 8, 3, out_blocks=2), CompositeLinear(5, 4, 8, 3)
    attention = SoftmaxAttention(query, key, num_heads=2, modulated=True)
    mixing, x = Unified(BlockLinear(5, 4, 4), attention), torch.randn(3, 5, 4)
    mixing.out_blocks = query.out_blocks
    assert attention.weights(x).shape == (3, 2, 2, 5)
    assert mixing(x).shape == (3, 2, 4)
    torch.testing.assert_close(
        mixing(x).flatten(1), torch.einsum("bij,bj->bi", mixing.mixing_matrix(x), x.flatten(1)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("top_k", [None, 3])
def test_coefficients_of_bases(top_k: int | None) -> None:
    local = BasisLinear(6, 4, 5, num_basis=8, top_k=top_k)
    coefficients = local.coefficients()
    torch.testing.assert_close(coefficients.sum(-1), torch.ones(6))
    assert ((coefficients > 0).sum(-1) == (8 if top_k is None else top_k)).all()
    chosen = (local.fields @ local.router).argsort(-1, descending=True)[:, : top_k or 8]
    assert (coefficients.gather(-1, chosen) > 0).all()
    torch.testing.assert_close(local.matrices()[2], sum(coefficients[2, m] * local.basis[m] for m in range(8)))


@pytest.mark.parametrize("top_k", [None, 3])
def test_composed_matrices_start_with_the_variance_of_linear_layers(top_k: int | None) -> None:
    for num_basis in (4, 64):
        local = BasisLinear(16, 64, 64, num_basis=num_basis, top_k=top_k)
        assert local.matrices().std().item() == pytest.approx((1 / 3 / 64) ** 0.5, rel=0.05)


def test_materialised_maps_have_no_router() -> None:
    local, x = BasisLinear(6, 4, 5, num_basis=8, top_k=3), torch.randn(2, 6, 4)
    plain = materialize(local)
    assert isinstance(plain, BlockLinear)
    assert [name for name, _ in plain.named_parameters()] == ["weight"]
    torch.testing.assert_close(plain(x), local(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SoftmaxAttention(SharedLinear(2, 4, 6), SharedLinear(2, 4, 6), num_heads=4),
            "query width=6 must be divisible by num_heads=4; the nearest valid query width is 4 or 8",
        ),
        (
            lambda: SoftmaxAttention(SharedLinear(2, 4, 6), SharedLinear(2, 4, 4)),
            "queries have width 6 and keys 4; they must be equal",
        ),
        (
            lambda: SoftmaxAttention(SharedLinear(2, 4, 4), SharedLinear(2, 4, 4), per_head=True),
            "per_head=True has no use with modulated=False",
        ),
        (lambda: BasisLinear(2, 4, 4, num_basis=4, top_k=1), "top_k=1 must lie between 2 and num_basis=4"),
        (lambda: CompositeLinear(2, 4, 4, 0), "rank=0 must be greater than 0"),
        (lambda: CompositeLinear(2, 4, 4, out_blocks=0), "out_blocks=0 must be greater than 0"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        make()
