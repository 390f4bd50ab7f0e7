"""FAT: attention with projections by field and a learned number for every pair of fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimixer.backbones.attention import AttentionBackbone, AttentionOptions, AttentionSublayer
from unimixer.blocks import PerTokenLinear, Recomputing, build_norm
from unimixer.errors import UnimixerError, check_choice
from unimixer.mixing import BasisLinear, BlockLinear, Local


@dataclass(frozen=True, kw_only=True)
class FATOptions(AttentionOptions):
    """Keyword arguments of :class:`FAT`; their meaning is there."""

    modulation: str = "logit"
    modulation_per_head: bool = False
    scaled: bool = True
    num_basis: int | None = None
    field_dim: int = 32
    top_k: int | None = None
    output_projection: bool = False


class FAT(AttentionBackbone):
    r"""Field-aware attention: content alignment by field, modulated pair by pair, and an FFN a field.

    .. math:: h_i = e_i + b_i, \qquad
              A_{ij} = \mathrm{softmax}_j\Big( w_{ij} \frac{(h_i W_Q^i) \cdot (h_j W_K^j)}{\sqrt{D / H}} \Big), \qquad
              \mathrm{FFN}_i(z) = \mathrm{SiLU}(z W_1^i) W_2^i

    "From Scaling to Structured Expressivity: Rethinking Transformers for CTR Prediction" (arXiv:2511.12081). The number
    :math:`w_{ij}` belongs to an ordered pair and multiplies the logit. ``num_basis`` composes the projections of shared
    bases, the hypernetwork of the second version (:class:`~unimixer.mixing.BasisLinear`); sizes seen in public code are
    (64 bases, ``field_dim`` 64, ``top_k`` 3) and (16, 32, 3).

    Silent in what we know of it, and chosen here: w starts at one, so that the first forward is plain attention, and is
    shared by heads; logits are scaled; b starts at zero; no output projection, for none is described. Readings disagree
    on the residual: two of them with norms after the additions (the default), or one around the whole block,
    :math:`Z' = Z + \mathrm{FFN}(\mathrm{LN}(\mathrm{Attn}(Z)))`. The paper sums tokens at the end; the ranker takes
    their mean, which differs by the constant factor T.

    Here T is the comparison's own and a token is a piece of the embedding; ``tokenizer: field`` gives the paper's one
    token a field.

    Args:
        num_tokens: T, the fields.
        token_dim: D, divisible by ``num_heads``.
        num_blocks: blocks of one attention and one FFN.
        num_heads: H.
        modulation: ``"logit"``, or ``"none"`` for w = 1.
        modulation_per_head: every head has its own w.
        scaled: divide logits by the root of the width of a head.
        num_basis: bases that the projections are composed of; None for projections of every field's own.
        field_dim: width of a field's embedding in the hypernetwork.
        top_k: bases that one field uses; None for all.
        output_projection: whether a map O of every field's own follows attention.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"block"`` (one around the whole block), ``"pre"``, ``"siamese"`` or
            ``"siamese-official"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> FAT(num_tokens=4, token_dim=16, num_basis=8, top_k=3)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = FATOptions

    def check(self, options: FATOptions) -> None:
        """Raise for options that do not fit."""
        super().check(options)
        check_choice("modulation", options.modulation, ("logit", "none"))
        if options.modulation == "none" and options.modulation_per_head:
            raise UnimixerError("modulation_per_head=True has no use with modulation='none'; take modulation='logit'")
        if options.num_basis is None and options.top_k is not None:
            raise UnimixerError(f"top_k={options.top_k} chooses among bases; give num_basis as well, such as 16")

    def build(self, options: FATOptions) -> None:
        """Build the fields' biases and the residual stream."""
        super().build(options)
        self.field_bias = nn.Parameter(torch.zeros(self.num_tokens, self.token_dim))

    def build_stack(self, blocks: Sequence[tuple[nn.Module, nn.Module]], options: FATOptions) -> nn.Module:
        """Build the residual stream around the sublayers."""
        if options.residual == "block":
            return BlockResidual(blocks, [build_norm(options.norm, self.token_dim) for _ in blocks])
        return super().build_stack(blocks, options)

    def build_block(self, options: FATOptions) -> tuple[nn.Module, nn.Module]:
        """Build the attention and the FFN of one block."""
        num_tokens, dim, hidden_dim = self.num_tokens, self.token_dim, options.hidden(self.token_dim)

        def linear() -> Local:
            if options.num_basis is None:
                return BlockLinear(num_tokens, dim, dim)
            sizes = (num_tokens, dim, dim, options.num_basis)
            return BasisLinear(*sizes, field_dim=options.field_dim, top_k=options.top_k)

        attention = AttentionSublayer(
            *(linear(), linear(), linear()),
            BlockLinear(num_tokens, dim, dim) if options.output_projection else None,
            num_heads=options.num_heads,
            scaled=options.scaled,
            modulated=options.modulation == "logit",
            per_head=options.modulation_per_head,
        )
        up = PerTokenLinear(num_tokens, dim, hidden_dim, bias=False)
        return attention, nn.Sequential(up, nn.SiLU(), PerTokenLinear(num_tokens, hidden_dim, dim, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the fields' biases and run the stack."""
        self.check_tokens(tokens)
        output: Tensor = self.stack(tokens + self.field_bias.to(tokens.dtype))
        return output

    @classmethod
    def around_ffn(cls, options: FATOptions, token_dim: float) -> float:
        """Q, K, V, O if there is one, modulation, and the fields' biases."""
        blocks, tokens = cls.count_blocks(options), options.num_tokens
        linear = tokens * token_dim**2
        composed = linear
        if options.num_basis is not None:
            composed = BasisLinear.num_parameters(tokens, token_dim, token_dim, options.num_basis, options.field_dim)
        heads = options.num_heads if options.modulation_per_head else 1
        pairs = heads * tokens**2 if options.modulation == "logit" else 0
        output = linear if options.output_projection else 0.0
        return float(blocks * (3 * composed + output + pairs) + tokens * token_dim)

    @classmethod
    def count_norms(cls, options: FATOptions) -> int:
        """Norms of the residual stream; ``"block"`` has one a block."""
        return cls.count_blocks(options) if options.residual == "block" else super().count_norms(options)

    @classmethod
    def ffn_biases(cls, options: FATOptions, token_dim: int, hidden_dim: int) -> int:
        """None."""
        return 0

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's :math:`3 T D^2 + T^2` and T FFNs of :math:`2 D h`; norms; :math:`T D` biases of fields.

        M bases put :math:`3 (M D^2 + k (T + M))` in place of :math:`3 T D^2`.
        """
        return super().formula(**arguments)


class BlockResidual(Recomputing):
    r"""One residual around attention and FFN together: :math:`Z' = Z + \mathrm{FFN}(N(\mathrm{Attn}(Z)))`.

    A reading of FAT (arXiv:2511.12081).

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``
    """

    def __init__(self, blocks: Sequence[tuple[nn.Module, nn.Module]], norms: Sequence[nn.Module]) -> None:
        super().__init__()
        parts = zip(blocks, norms, strict=True)
        self.blocks = nn.ModuleList(nn.Sequential(attention, norm, ffn) for (attention, ffn), norm in parts)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        for block in self.blocks:
            tokens = tokens + self.run(block, tokens)
        return tokens
