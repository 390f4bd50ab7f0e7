"""Closed formulas for the products of every layer: what a call of it multiplies, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unimixer.backbones import DLRM
from unimixer.backbones.finalmlp import BilinearHeads
from unimixer.blocks import CrossAttention, PerTokenExperts, PerTokenFFN, PerTokenLinear, PerTokenRouter, PerTokenSwiGLU
from unimixer.features.embedding import PackedEmbedding
from unimixer.features.events import SequenceTokens
from unimixer.features.numeric import NumericEmbedding
from unimixer.mixing import (
    AttentiveValues,
    BasisLinear,
    BasisLocal,
    CompositeLinear,
    Compression,
    ConstantValues,
    Constrained,
    Convolution,
    FactorizationMixing,
    FullMixing,
    Global,
    GramMatrix,
    IdentityLocal,
    Local,
    LowRankGlobal,
    MatrixMixing,
    Mixing,
    Permutation,
    SoftmaxAttention,
    SparseGlobal,
    UnitValues,
)
from unimixer.ops.sinkhorn import newton

EMBEDDING, TOKENIZER, SEQUENCES, LOCAL, GLOBAL = (
    "embedding lookup",
    "tokenizer",
    "sequences",
    "local mixing",
    "global mixing",
)
SINKHORN, FFN, OTHER, TOWERS = "Sinkhorn", "FFN", "other layers", "towers"
GROUPS = (EMBEDDING, TOKENIZER, SEQUENCES, LOCAL, GLOBAL, SINKHORN, FFN, OTHER, TOWERS)
SINKHORN_STEPS = 10
"""Steps of the solver for a random matrix, the first four plain; a matrix that starts from the rule takes none at
first, and as many as it has moved away later."""


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one call of a layer, two FLOPs each.

    Args:
        forward: FLOPs of the forward pass.
        gradients: operands that get a gradient, each for another product of the same size.
        again: FLOPs of forward that backward repeats.
        group: where it counts, if not where its layer does.
        seen: whether torch's counter sees it.
    """

    forward: int
    gradients: int = 2
    again: int = 0
    group: str | None = None
    seen: bool = True

    @property
    def training(self) -> int:
        """FLOPs of forward and backward."""
        return self.forward * (1 + self.gradients) + self.again


Inputs = tuple[Any, ...]
Rule = Callable[[Any, Inputs], Iterator[Product]]
RULES: dict[type[nn.Module], Rule] = {}
"""By class; a class without a rule of its own has that of the nearest one it inherits from."""


def rule(*classes: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register the formula of a class; that of a module of your own counts from then on.

    A rule gets the module and the positional arguments of a call, and gives the products that the call computes
    itself: what it leaves to modules inside, which it calls, is theirs.
    """

    def register(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(classes, found))
        return found

    return register


def rule_of(module: nn.Module) -> Rule | None:
    """The formula for a module, None where there is none."""
    return next((RULES[cls] for cls in type(module).__mro__ if cls in RULES), None)


def _weighed(module: nn.Module, x: Tensor) -> int:
    """Operands with a gradient of a product of weights and x."""
    return any(p.requires_grad for p in module.parameters()) + x.requires_grad


@rule(nn.Linear)
def _linear(module: nn.Linear, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.out_features, _weighed(module, given[0]))


@rule(PerTokenLinear)
def _per_token_linear(module: PerTokenLinear, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.weight.shape[2], _weighed(module, given[0]))


@rule(PerTokenFFN, PerTokenSwiGLU)
def _per_token_ffn(module: Any, given: Inputs) -> Iterator[Product]:
    first = module.up if isinstance(module, PerTokenFFN) else module.up_gate
    weights = first.weight.numel() + module.down.weight.numel()
    yield Product(2 * given[0].shape[0] * weights, _weighed(module, given[0]))


@rule(PerTokenExperts)
def _experts(module: PerTokenExperts, given: Inputs) -> Iterator[Product]:
    # the first layer is called; of a gated sum there remain the second and its biases, one vector an expert
    biases = 0 if module.down_bias is None else module.down_bias.numel()
    yield Product(2 * given[0].shape[0] * (module.down.numel() + biases))


@rule(PerTokenRouter)
def _router(module: PerTokenRouter, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.linear.weight.shape[2], _weighed(module, given[0]))


# ---- mixings: patterns inside blocks, patterns between them ---------------------------------------------------------


@rule(Local)
def _local(module: Local, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.out_dim, _weighed(module, given[0]))


@rule(IdentityLocal, ConstantValues, UnitValues, CompositeLinear, Permutation, SparseGlobal)
def _nothing(module: nn.Module, given: Inputs) -> Iterator[Product]:
    yield from ()


@rule(BasisLinear)
def _basis_linear(module: BasisLinear, given: Inputs) -> Iterator[Product]:
    yield from _local(module, given)
    yield Product(2 * module.fields.numel() * module.router.shape[1])
    yield Product(2 * module.num_blocks * module.basis.numel())


@rule(AttentiveValues)
def _attentive_values(module: AttentiveValues, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.compression.shape[0])


@rule(Global)
def _global(module: Any, given: Inputs) -> Iterator[Product]:
    blocks, values = given
    if isinstance(module, GramMatrix):
        yield Product(2 * blocks.numel() * blocks.shape[1])
        yield Product(2 * values.numel() * blocks.shape[1])
    elif isinstance(module, Constrained):
        yield from _solved(module)
        yield Product(2 * values.numel() * values.shape[1])
    else:
        weight = getattr(module, "weight", None)  # a function of the blocks is not looked into
        rows = values.shape[1] if weight is None else weight.shape[0]
        yield Product(2 * values.numel() * rows, _weighed(module, values))


@rule(SoftmaxAttention)
def _attention(module: SoftmaxAttention, given: Inputs) -> Iterator[Product]:
    _, values = given
    pairs = values.shape[0] * module.query.out_blocks * module.key.out_blocks
    scores = 2 * pairs * module.query.out_dim
    fused = module.modulation is None and not (module._small and values.device.type == "cpu")
    yield Product(scores, again=scores if fused else 0)
    yield Product(2 * pairs * values.shape[2])


@rule(MatrixMixing)
def _matrix_mixing(module: MatrixMixing, given: Inputs) -> Iterator[Product]:
    x = given[0]
    yield Product(2 * x.numel() * module.block_size, _weighed(module.local, x), group=LOCAL)
    yield Product(2 * x.numel() * module.num_blocks_mixed, _weighed(module.global_, x), group=GLOBAL)
    for part in (module.local, module.global_):
        if isinstance(part, Constrained):
            yield from _solved(part)


@rule(FactorizationMixing)
def _factorization(module: FactorizationMixing, given: Inputs) -> Iterator[Product]:
    product = 2 * given[0].numel() * module.local.out_dim
    yield Product(product)
    if not isinstance(module.local, UnitValues):
        yield Product(product)


@rule(Compression)
def _compression(module: Compression, given: Inputs) -> Iterator[Product]:
    if given[0].dim() > 2:  # flat tokens go through the pattern, which counts itself
        yield Product(2 * given[0].numel() * module.out_blocks)


@rule(FullMixing)
def _full_mixing(module: FullMixing, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.length)


@rule(Convolution)
def _convolution(module: Convolution, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].numel() * module.kernel_size**2)


@rule(Mixing)
def _mixing(module: Mixing, given: Inputs) -> Iterator[Product]:
    yield from ()  # its two patterns are called


def _solved(part: Constrained) -> Iterator[Product]:
    """What is done once a step whatever the batch: raw matrices from their factors, and Sinkhorn."""
    if isinstance(part, LowRankGlobal):
        yield Product(2 * part.left.numel() * part.right.shape[1], group=GLOBAL)
    elif isinstance(part, BasisLocal):
        yield Product(2 * part.coefficients.shape[0] * part.basis.numel(), group=LOCAL)
    if part.doubly_stochastic:
        yield from sinkhorn_products(*_matrices(part), symmetric=part.symmetric)


def _matrices(part: Any) -> tuple[int, int]:
    if isinstance(part, LowRankGlobal):
        return 1, int(part.left.shape[0])
    if isinstance(part, BasisLocal):
        return int(part.coefficients.shape[0]), int(part.basis.shape[-1])
    size = int(part.logits.shape[-1])
    return int(part.logits.numel()) // size**2, size


def sinkhorn_products(count: int, size: int, *, symmetric: bool, steps: int = SINKHORN_STEPS) -> Iterator[Product]:
    r"""Scaling of ``count`` matrices of N x N, and its implicit gradient.

    A plain step takes about :math:`4 N^2`; a Newton step factorises the Hessian as well, :math:`N^3 / 3`, which in the
    general case is a product first, :math:`2 N^3`. Backward solves with one Hessian. Torch's counter sees of this
    no more than the products of the general case in backward.

    Args:
        count: matrices.
        size: N.
        symmetric: solve for one vector.
        steps: of the solver, its first four plain.
    """
    plain, hessian = 4 * size**2, size**3 // 3 + 2 * size**2
    newton_steps = max(0, steps - newton.SINKHORN_STEPS)
    product = 0 if symmetric else 2 * size**3
    yield Product(
        count * (steps * plain + newton_steps * (hessian + product)),
        gradients=0,
        again=count * (2 * plain + hessian),
        group=SINKHORN,
        seen=False,
    )
    if not symmetric:
        yield Product(0, again=count * (product + 4 * size**2), group=SINKHORN)


# ---- backbones and sequences ----------------------------------------------------------------------------------------


@rule(DLRM)
def _dlrm(module: DLRM, given: Inputs) -> Iterator[Product]:
    rows, vectors, width = given[0].shape
    vectors += module.bottom is not None
    yield Product(2 * rows * vectors**2 * width)


@rule(BilinearHeads)
def _bilinear(module: BilinearHeads, given: Inputs) -> Iterator[Product]:
    yield Product(2 * given[0].shape[0] * module.weight.numel())


@rule(CrossAttention)
def _cross_attention(module: CrossAttention, given: Inputs) -> Iterator[Product]:
    tokens, events, _ = given
    num_tokens, width = module.key.weight.shape[0], module.key.weight.shape[2]
    yield Product(2 * tokens.shape[0] * num_tokens * width * module.sequence_dim)
    yield from _attend(num_tokens, events)


@rule(SequenceTokens)
def _sequence_tokens(module: SequenceTokens, given: Inputs) -> Iterator[Product]:
    histories = given[0]
    for index, queries in enumerate(module.queries):
        rows, length = histories[2 * index].shape[:2]
        yield Product(4 * rows * length * queries.numel())


def _attend(queries: int, events: Tensor) -> Iterator[Product]:
    """Scores of the events, and their weighted mean."""
    yield Product(4 * events.numel() * queries)


@rule(nn.MultiheadAttention)
def _multihead(module: nn.MultiheadAttention, given: Inputs) -> Iterator[Product]:
    tokens = given[0]
    yield Product(2 * tokens.numel() * 4 * module.embed_dim)
    yield Product(4 * tokens.numel() * tokens.shape[1])


@rule(PackedEmbedding, NumericEmbedding)
def _rows(module: nn.Module, given: Inputs) -> Iterator[Product]:
    yield from ()  # rows are copied or added up: no product
