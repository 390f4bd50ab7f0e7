"""The table of arXiv:2604.00590, "unified form", row by row.

Every row is written out as its own textbook has it: loops over tokens, float64, nothing of ours but the weights. It
must equal ``Unified(local, global_)`` in its outputs and in the gradients of the input and of every weight.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimixer.mixing import (
    BasisLocal,
    BlockLinear,
    CallableGlobal,
    CompositeLinear,
    ConstantValues,
    Constraint,
    DoublyStochasticLocal,
    FactorizationMixing,
    FullGlobal,
    GramMatrix,
    IdentityLocal,
    LearnedGlobal,
    LowRankGlobal,
    Permutation,
    SharedLinear,
    SoftmaxAttention,
    TokenMixing,
    Unified,
    UniMixing,
    UniMixingLite,
)

SIZES = settings(max_examples=15, deadline=None)
tokens_up_to_5 = st.integers(1, 5)
small = st.integers(1, 4)
SOLVED = 1e-4
"""Row and column sums are solved for to 1e-5, the textbook iterates to the last digit; outputs are sums of blocks."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_row_holds(
    mixing: Unified, textbook: Callable[[Tensor], Tensor], num_tokens: int, width: int, atol: float = 1e-9
) -> None:
    """Equal outputs, equal gradients, and an equivalent matrix."""
    mixing = mixing.double()
    with torch.no_grad():  # no weight stays at a start that could hide a mistake
        for number, parameter in enumerate(mixing.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number + 1))
    x, leaves = normal(3, num_tokens, width).requires_grad_(), list(mixing.parameters())
    outputs = mixing(x).flatten(1), torch.stack([textbook(row).flatten() for row in x])
    torch.testing.assert_close(*outputs, atol=atol, rtol=1e-7)
    cotangent = normal(*outputs[0].shape, seed=99)
    gradients = [torch.autograd.grad(output, [x, *leaves], cotangent) for output in outputs]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=10 * atol, rtol=1e-6)
    matrix = mixing.mixing_matrix(x).to(x.dtype).expand(3, -1, -1)
    product = torch.einsum("bij,bj->bi", matrix, x.flatten(1))
    torch.testing.assert_close(product, outputs[0], atol=atol, rtol=1e-7)


def softmax_of(scores: list[Tensor]) -> list[Tensor]:
    total = sum(torch.exp(s) for s in scores)
    return [torch.exp(s) / total for s in scores]


def attend(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    """Textbook multi-head attention, one head and one query at a time."""
    rows = []
    for query in queries:
        outputs = []
        for q, ks, vs in zip(
            query.chunk(heads),
            zip(*(k.chunk(heads) for k in keys), strict=True),
            zip(*(v.chunk(heads) for v in values), strict=True),
            strict=True,
        ):
            weights = softmax_of([torch.dot(q, k) / math.sqrt(len(q)) for k in ks])
            outputs.append(sum(w * v for w, v in zip(weights, vs, strict=True)))
        rows.append(torch.cat(outputs))
    return torch.stack(rows)


def scaled(matrix: Tensor, tau: float, symmetric: bool) -> Tensor:
    """Sinkhorn and Knopp: exponentiate, then normalise rows and columns by turns until nothing moves."""
    if symmetric:
        matrix = (matrix + matrix.T) / 2
    plan = torch.exp(matrix / tau)
    for _ in range(200):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return plan


def mixed(between: Tensor, inside: list[Tensor], x: Tensor) -> Tensor:
    """Local mixing of every block, then sums over blocks."""
    blocks = list(x.flatten().chunk(len(inside)))
    local = [block @ matrix for block, matrix in zip(blocks, inside, strict=True)]
    return torch.stack([sum(between[m, n] * local[n] for n in range(len(local))) for m in range(len(local))])


@SIZES
@given(num_tokens=tokens_up_to_5, heads=small, head_dim=small)
def test_self_attention(num_tokens: int, heads: int, head_dim: int) -> None:
    """Local pattern: X W_V, shared. Global pattern: softmax(X W_Q (X W_K)^T / sqrt(d))."""
    width = heads * head_dim
    value, query, key = (SharedLinear(num_tokens, width, width) for _ in range(3))
    mixing = Unified(value, SoftmaxAttention(query, key, num_heads=heads))

    def textbook(x: Tensor) -> Tensor:
        return attend([t @ query.weight for t in x], [t @ key.weight for t in x], [t @ value.weight for t in x], heads)

    assert_row_holds(mixing, textbook, num_tokens, width)


@SIZES
@given(num_tokens=tokens_up_to_5, heads=small, head_dim=small, width=small, modulated=st.booleans())
def test_heterogeneous_attention(num_tokens: int, heads: int, head_dim: int, width: int, modulated: bool) -> None:
    """Local pattern: token-specific X W_V^i. Global pattern: softmax with token-specific W_Q^i, W_K^i."""
    value, query, key = (BlockLinear(num_tokens, width, heads * d) for d in (width, head_dim, head_dim))
    attention = SoftmaxAttention(query, key, num_heads=heads, modulated=modulated)
    mixing = Unified(value, attention)

    def textbook(x: Tensor) -> Tensor:
        queries, keys, values = ([t @ part.weight[i] for i, t in enumerate(x)] for part in (query, key, value))
        if not modulated:
            return attend(queries, keys, values, heads)
        assert attention.modulation is not None  # FAT: a number for every ordered pair of fields times the logit
        # modulating the logit of query i is scaling the keys that it meets
        rows = [
            attend([q], [w * k for w, k in zip(attention.modulation[0, i], keys, strict=True)], values, heads)
            for i, q in enumerate(queries)
        ]
        return torch.cat(rows)

    assert_row_holds(mixing, textbook, num_tokens, width)


@SIZES
@given(num_tokens=tokens_up_to_5, width=small, rank=st.sampled_from([None, 1, 3]))
def test_hiformer(num_tokens: int, width: int, rank: int | None) -> None:
    """Composite projections: queries, keys and values of all tokens from all tokens, in full or low rank."""
    value, query, key = (CompositeLinear(num_tokens, width, width, rank) for _ in range(3))
    mixing = Unified(value, SoftmaxAttention(query, key))

    def textbook(x: Tensor) -> Tensor:
        flat = torch.cat(list(x))
        parts = []
        for composite in (query, key, value):
            weights = [p.T for p in composite.parameters()]
            projected = flat @ (weights[0] if rank is None else weights[0] @ weights[1])
            parts.append(list(projected.chunk(num_tokens)))
        return attend(*parts, heads=1)

    assert_row_holds(mixing, textbook, num_tokens, width)


@SIZES
@given(num_tokens=tokens_up_to_5, heads=small, head_dim=small)
def test_token_mixer(num_tokens: int, heads: int, head_dim: int) -> None:
    """Local pattern: X, the identity. Global pattern: a fixed permutation. Any number of heads."""
    width = heads * head_dim

    def textbook(x: Tensor) -> Tensor:
        return torch.cat([torch.cat([token[h * head_dim : (h + 1) * head_dim] for token in x]) for h in range(heads)])

    rule = TokenMixing(num_tokens, width, heads)
    assert_row_holds(rule, textbook, num_tokens, width)
    order = torch.tensor([t * heads + h for h in range(heads) for t in range(num_tokens)])
    general = Unified(IdentityLocal(num_tokens * heads, head_dim), Permutation(order))
    assert_row_holds(general, textbook, num_tokens, width)


@SIZES
@given(num_tokens=tokens_up_to_5, width=small, projections=small)
def test_factorization_machine(num_tokens: int, width: int, projections: int) -> None:
    """Local pattern: Y, a learned projection that does not come from X. Global pattern: X X^T."""
    mixing = FactorizationMixing(num_tokens, width, projections)

    def textbook(x: Tensor) -> Tensor:
        y = mixing.local.values
        return torch.stack([sum(torch.dot(a, b) * y[j] for j, b in enumerate(x)) for a in x])

    assert_row_holds(mixing, textbook, num_tokens, width)
    # the cheap product X (X^T Y) and the definition (X X^T) Y are one
    definition = Unified(ConstantValues(num_tokens, width, projections), GramMatrix()).double()
    definition.load_state_dict(mixing.state_dict())
    x = normal(3, num_tokens, width, seed=5)
    torch.testing.assert_close(definition(x).reshape(3, -1), mixing(x).reshape(3, -1))


@SIZES
@given(num_blocks=tokens_up_to_5, block_size=small, symmetric=st.booleans(), tau=st.sampled_from([3.0, 1.5]))
def test_unimixing(num_blocks: int, block_size: int, symmetric: bool, tau: float) -> None:
    """Local pattern: block-specific x_i W_B^i. Global pattern: learned, constrained, not a function of X."""
    mixing = UniMixing(num_blocks * block_size, block_size, init="random", symmetric=symmetric, temperature=tau)

    @cache
    def weights() -> tuple[Tensor, list[Tensor]]:
        inside = [scaled(raw, tau, symmetric) for raw in mixing.local.logits]
        return scaled(mixing.global_.logits, tau, symmetric), inside

    assert_row_holds(mixing, lambda x: mixed(*weights(), x), num_blocks, block_size, atol=SOLVED)
    definition = Unified(
        DoublyStochasticLocal(num_blocks, block_size, constraint=Constraint(tau, symmetric)),
        LearnedGlobal(num_blocks, constraint=Constraint(tau, symmetric)),
    ).double()
    definition.load_state_dict(mixing.state_dict())
    x = normal(3, num_blocks * block_size, seed=5)
    torch.testing.assert_close(definition(x), mixing(x), atol=1e-9, rtol=1e-7)


@SIZES
@given(num_blocks=tokens_up_to_5, block_size=small, rank=small, basis=small, symmetric=st.booleans(), tau=st.just(3.0))
def test_unimixing_lite(num_blocks: int, block_size: int, rank: int, basis: int, symmetric: bool, tau: float) -> None:
    """UniMixing with a low-rank global matrix and local matrices from a shared basis."""
    constraint = Constraint(tau, symmetric)
    options = {"rank": rank, "num_basis": basis, "init": "random", "symmetric": symmetric, "temperature": tau}
    mixing = UniMixingLite(num_blocks * block_size, block_size, **options)

    @cache
    def weights() -> tuple[Tensor, list[Tensor]]:
        local, between = mixing.local, mixing.global_
        inside = [
            scaled(sum(omega * z for omega, z in zip(row, local.basis, strict=True)), tau, symmetric)
            for row in local.coefficients
        ]
        return scaled(between.left @ between.right, tau, symmetric), inside

    assert_row_holds(mixing, lambda x: mixed(*weights(), x), num_blocks, block_size, atol=SOLVED)
    definition = Unified(
        BasisLocal(num_blocks, block_size, basis, constraint=constraint),
        LowRankGlobal(num_blocks, rank, constraint=constraint),
    ).double()
    definition.load_state_dict(mixing.state_dict())
    x = normal(3, num_blocks * block_size, seed=5)
    torch.testing.assert_close(definition(x), mixing(x), atol=1e-9, rtol=1e-7)


@SIZES
@given(num_blocks=tokens_up_to_5, block_size=small)
def test_full_mixing(num_blocks: int, block_size: int) -> None:
    """RankElastor: blocks of width one and a free matrix, that is a linear map of the whole embedding."""
    length = num_blocks * block_size
    mixing = Unified(IdentityLocal(length, 1), FullGlobal(length))

    def textbook(x: Tensor) -> Tensor:
        return mixing.global_.weight @ x.flatten()

    assert_row_holds(mixing, textbook, num_blocks, block_size)


@SIZES
@given(num_blocks=tokens_up_to_5, width=small)
def test_any_callable(num_blocks: int, width: int) -> None:
    """Any function of the blocks may weigh them; here by their distances."""
    value = BlockLinear(num_blocks, width, width)
    mixing = Unified(value, CallableGlobal(lambda blocks: -torch.cdist(blocks, blocks, p=1)))

    def textbook(x: Tensor) -> Tensor:
        inside = [t @ value.weight[i] for i, t in enumerate(x)]
        return torch.stack([sum(-(a - b).abs().sum() * v for b, v in zip(x, inside, strict=True)) for a in x])

    assert_row_holds(mixing, textbook, num_blocks, width)
