"""Convert mixings: the rule to UniMixing, UniMixing-Lite to full matrices, weights of one model for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError, check_divisible
from unimixer.mixing.constrained import Constrained
from unimixer.mixing.learned import BasisLocal
from unimixer.mixing.unimixing import UniMixing, UniMixingLite

SHARPNESS = 20.0
"""Logits of a converted rule over the temperature: every other entry of a row is exp(-20) = 2e-9."""


def from_rule(
    num_tokens: int,
    token_dim: int,
    num_heads: int,
    *,
    block_size: int | None = None,
    rank: int | None = None,
    temperature: float = 0.05,
    **options: Any,
) -> UniMixing | UniMixingLite:
    """Make the rule of TokenMixer a learned mixing with the same output, within 1e-5, for any H that divides D.

    The rule is symmetric where H = T and is not elsewhere, and so is the result.

    Args:
        num_tokens: T.
        token_dim: D.
        num_heads: H.
        block_size: width b of a block; it must divide a head, D / H (default: a whole head).
        rank: None for UniMixing, else the rank of UniMixing-Lite.
        temperature: of the result; the raw values follow from it.
        options: further keyword arguments of the mixing, such as ``num_basis`` of UniMixing-Lite.

    Example:
        >>> mixing = from_rule(num_tokens=4, token_dim=6, num_heads=2)
        >>> tokens = torch.randn(2, 4, 6)
        >>> torch.allclose(mixing(tokens).view(2, 2, 12), ops.token_mixing(tokens, 2), atol=1e-5)
        True
    """
    check_divisible("token_dim", token_dim, by="num_heads", divisor=num_heads)
    head = token_dim // num_heads
    block_size = head if block_size is None else block_size
    check_divisible("head width token_dim / num_heads", head, by="block_size", divisor=block_size)
    permutation = ops.token_mixing_permutation(num_tokens, token_dim // block_size, num_heads)
    involution = torch.equal(permutation[permutation], torch.arange(permutation.numel()))
    length = num_tokens * token_dim
    options |= {"init": permutation, "init_scale": SHARPNESS * temperature, "temperature": temperature}
    if rank is None:
        return UniMixing(length, block_size, symmetric=involution, **options)
    return UniMixingLite(length, block_size, rank=rank, symmetric=involution, **options)


def to_full(mixing: UniMixingLite) -> UniMixing:
    r"""Convert UniMixing-Lite to UniMixing with equal outputs.

    The raw matrices are :math:`A B` and :math:`\sum_l \omega_l^i Z_l`.

    Example:
        >>> lite = UniMixingLite(length=64, block_size=2, rank=8, num_heads=4)
        >>> tokens = torch.randn(2, 4, 16)
        >>> torch.allclose(to_full(lite)(tokens), lite(tokens), atol=1e-6)
        True
    """
    inside, between = mixing.local, mixing.global_
    assert isinstance(inside, BasisLocal)
    assert isinstance(between, Constrained)
    full = UniMixing(
        mixing.length,
        mixing.block_size,
        init="random" if between.around is None else between.around.cpu(),
        temperature=between.temperature.item(),
        symmetric=between.symmetric,
        constraint=between.constraint.kind,
        gate=between.constraint.gate,
        range_cap=between.constraint.range_cap,
        local=inside.kind,
    ).to(between.temperature)
    full.load_state_dict(converted_state(mixing.state_dict(), full))
    return full.train(mixing.training)


def converted_state(state: Mapping[str, Tensor], target: nn.Module) -> dict[str, Tensor]:
    """Weights of one model for another that differs in its mixings only.

    Tensors of equal names are taken over. The raw matrices of UniMixing are made from the factors and the basis of
    UniMixing-Lite; where the source has no learned mixing (RankMixer), the target keeps its own start, the rule.

    Args:
        state: state of the source.
        target: the model that will load the result; it is not changed, and may be on ``meta``.

    Raises:
        UnimixerError: naming the first tensor that has no counterpart, or another shape.
    """
    own = target.state_dict()
    patterns = tuple(f"{name}." for name, part in target.named_modules() if isinstance(part, Constrained))
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, start in own.items():
        factors = _factors(name, state)
        if name in state:
            result[name] = state[name]
            used.add(name)
        elif factors:
            first, second = (state[factor] for factor in factors)
            result[name] = first @ second if first.dim() == second.dim() else torch.einsum("nl,lij->nij", first, second)
            used.update(factors)
        elif name.startswith(patterns) and not any(key.startswith(name.rpartition(".")[0] + ".") for key in state):
            result[name] = start
        else:
            raise UnimixerError(
                f"the weights have no {name!r}, which this model needs: the models differ in more than mixings"
            )
        if result[name].shape != start.shape:
            raise UnimixerError(
                f"{name!r} has shape {tuple(result[name].shape)}, this model needs {tuple(start.shape)}; "
                "give both models the same sizes"
            )
    for name in state:
        if name not in used:
            raise UnimixerError(f"the weights hold {name!r}, which this model does not have: it is another model")
    return result


def check_same_meaning(source: nn.Module, target: nn.Module) -> None:
    """Raise where both models have a learned mixing whose numbers mean something else.

    Example:
        >>> check_same_meaning(UniMixing(16, 2, num_heads=2), UniMixing(16, 2, num_heads=2, temperature=0.6))
    """
    parts = {name: part for name, part in source.named_modules() if isinstance(part, Constrained)}
    for name, part in target.named_modules():
        before = parts.get(name)
        if before is None or not isinstance(part, Constrained):
            continue
        kinds = before.constraint.kind, part.constraint.kind
        if kinds[0] != kinds[1]:
            raise UnimixerError(
                f"{name!r} was trained with constraint={kinds[0]!r}, and this model has {kinds[1]!r}: the same numbers "
                "are another mixing"
            )


def _factors(name: str, state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Names of the two tensors of UniMixing-Lite whose product is a raw matrix of UniMixing."""
    for end, pair in (("global_.logits", ("left", "right")), ("local.logits", ("coefficients", "basis"))):
        prefix = name.removesuffix("logits")
        if name.endswith(end) and all(prefix + factor in state for factor in pair):
            return prefix + pair[0], prefix + pair[1]
    return None
