"""MTmixAtt: a free matrix between tokens for every head, and a dense mixture of experts a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unimixer.backbones.mixer import MixerBackbone, StreamOptions
from unimixer.errors import check_divisible
from unimixer.mixing import IdentityLocal, Mixing, PerHeadGlobal, Unified

DENSE = {"num_experts": 4, "num_active": 4}
"""Options of a mixture whose experts all work for every token."""


@dataclass(frozen=True, kw_only=True)
class MTmixAttOptions(StreamOptions):
    """Keyword arguments of :class:`MTmixAtt`; their meaning is there."""

    ffn: str = "topk-moe"
    num_heads: int | None = None
    init: str = "orthogonal"

    def __post_init__(self) -> None:
        if self.ffn == "topk-moe" and self.ffn_options is None:
            object.__setattr__(self, "ffn_options", DENSE)


class MTmixAtt(MixerBackbone):
    r"""A stack of learned mixing by heads and a dense mixture of experts.

    .. math:: y^h = x^h + M_h x^h, \qquad S = \mathrm{LN}([y^1 \Vert \dots \Vert y^H]), \qquad
              X' = \mathrm{LN}(S + \mathrm{MoE}(S))

    MTmixAtt (arXiv:2510.15286). We know the mixing, its starts and that a dense mixture follows; the rest is ours: the
    sum in :math:`y^h` is the residual of the first Add & Norm, and there is no second one; experts are those of
    ``"topk-moe"``, all active, one of them with the constant gate 1; H is T. The paper's learned grouping of features
    into tokens is not here.

    Args:
        num_tokens: T.
        token_dim: D.
        num_blocks: blocks of one mixing and one mixture.
        num_heads: H, a divisor of D (default T).
        init: start of the matrices: ``"orthogonal"`` (the best in the paper), ``"zero"`` or ``"random"``.
        hidden_dim: hidden width of all experts together (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"topk-moe"``, ``"relu-moe"``, ``"swiglu"`` or ``"gelu"``.
        ffn_options: of a mixture (default for ``"topk-moe"``: 4 experts, all active), see
            :class:`~unimixer.blocks.TopKMoE` and :class:`~unimixer.blocks.ReLUMoE`.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.
        sequence_dim: as in :class:`~unimixer.backbones.RankMixer`, like the next two.
        sequence_head_dim: width of queries, keys and values (default: D).
        sequence_hidden_dim: hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none.
        dots: send dot products of all pairs of tokens past the stack to the towers, of those that enter it and of those
            that leave it, see :class:`~unimixer.backbones.mixer.MixerBackbone`.

    Shape:
        - tokens: ``(B, T, D)``; with ``sequence_dim`` also events ``(B, S, C)`` and their mask ``(B, S)``
        - output: ``(B, T, D)``, with ``dots`` beside features ``(B, T (T - 1))``

    Example:
        >>> import torch
        >>> MTmixAtt(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = MTmixAttOptions

    def build(self, options: MTmixAttOptions) -> None:
        """Build the residual stream."""
        check_divisible("token_dim", self.token_dim, by="num_heads", divisor=options.num_heads or self.num_tokens)
        super().build(options)

    def build_mixing(self, options: MTmixAttOptions) -> Mixing:
        """Build the matrices of one block."""
        matrices = PerHeadGlobal(self.num_tokens, options.num_heads or self.num_tokens, options.init)
        return Unified(IdentityLocal(self.num_tokens, self.token_dim), matrices)

    @classmethod
    def mixing_parameters(cls, options: MTmixAttOptions) -> int:
        """Parameters of the mixing of one block: :math:`H T^2`."""
        return int(options.num_heads or options.num_tokens) * options.num_tokens**2

    @classmethod
    def width_step(cls, options: MTmixAttOptions) -> int:
        """The number that divides every token width: H."""
        return int(options.num_heads or options.num_tokens)
