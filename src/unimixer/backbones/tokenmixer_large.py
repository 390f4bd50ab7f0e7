"""TokenMixer-Large: mixing and reverting, per-token SwiGLU, and the means that keep a deep stack trainable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from unimixer.backbones.mixer import MixerBackbone, MixerOptions
from unimixer.blocks import (
    MixRevert,
    PerTokenFFN,
    PerTokenSwiGLU,
    ReLUMoE,
    TopKMoE,
    build_ffn,
    build_norm,
    ffn_parameters,
    small_ffn_init_,
)
from unimixer.blocks.initialization import SMALL_DOWN
from unimixer.blocks.mix_revert import check_heads, largest_heads, placement
from unimixer.blocks.recompute import Recomputing
from unimixer.errors import UnimixerError


@dataclass(frozen=True, kw_only=True)
class TokenMixerLargeOptions(MixerOptions):
    """Keyword arguments of :class:`TokenMixerLarge`; their meaning is there."""

    expansion: float = 2.0
    ffn: str = "swiglu"
    norm: str = "rms"
    residual: str = "outer"
    num_heads: int | None = None
    norm_placement: str | None = None
    final_norm: bool | None = None
    inter_residual_every: int | None = 2
    num_auxiliary: int | None = None
    init_scales: Sequence[float] = SMALL_DOWN
    scale_on: str = "std"
    init_distribution: str = "uniform"


class TokenMixerLarge(Recomputing, MixerBackbone):
    r"""A deep stack of mixing and reverting.

    .. math:: Y = X + \mathrm{Revert}(p_1(\mathrm{Mix}(N(X)))), \qquad X' = Y + p_2(N(Y))

    TokenMixer-Large (arXiv:2602.06563), with :math:`p` per-token SwiGLU without biases and :math:`N` RMSNorm; the
    other reading of the paper is ``residual="inner"``, see :class:`~unimixer.blocks.MixRevert`. One of the T tokens is
    the global token of the semantic tokenizer; the output is read as the mean of all T. Parameters of a block, n being
    the expansion, are :math:`3 n T^2 D^2 / H + 3 n T D^2` and two norms.

    The paper gives neither sizes nor every detail. Choices made here:

    - Two blocks and n = 2 are the defaults, for short logs; deeper stacks use the following two parts by themselves.
    - Inter-residuals: with k = ``inter_residual_every``, the input of block l = k + 1, 2k + 1, ... but for the last
      block is the output of block l - 1 plus that of block l - k.
    - Auxiliary losses: tokens after evenly spaced blocks, normalised by the final norm as the output is, go to a tower
      each. One such place from three blocks on. It costs nothing outside training.
    - A final norm where norms come before the layers, as such stacks have elsewhere.
    - Small start: Xavier's, by slice, times a factor for each of up, gate and down. The paper leaves open whether the
      factor is on the standard deviation or the variance.

    Args:
        num_tokens: T, the global token included.
        token_dim: D.
        num_blocks: blocks of two layers each.
        num_heads: H, which need not be T (default: the largest divisor of D up to T, T itself where it divides D).
        hidden_dim: hidden width nD of the layer on tokens (default: ``expansion * token_dim``); that of the layer on
            mixed tokens, of width T D / H, is T / H times as large.
        expansion: ratio n of hidden to token width.
        residual: ``"outer"`` (figure and text of the paper) or ``"inner"`` (its equations).
        norm_placement: ``"pre"`` or ``"post"`` (default: pre for the outer and post for the inner residual).
        norm: ``"rms"`` or ``"layer"``.
        final_norm: normalise the output (default: where norms are before the layers).
        inter_residual_every: k, at least 2; None for no inter-residuals.
        num_auxiliary: places whose tokens join the training loss (default: 1 from three blocks on, else 0).
        ffn: ``"swiglu"``, ``"topk-moe"`` (the sparse variant of the paper), ``"gelu"`` or ``"relu-moe"``.
        ffn_options: further options of the FFN; without ``bias`` among them there is none.
        init_scales: factors on the start of up, gate and down.
        scale_on: whether they multiply the ``"std"`` or the variance, ``"var"``.
        init_distribution: ``"uniform"`` or ``"normal"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> TokenMixerLarge(num_tokens=4, token_dim=16, num_heads=2)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    default_tokenizer: ClassVar[Literal["chunk", "semantic", "field"]] = "semantic"
    Options: ClassVar[Any] = TokenMixerLargeOptions

    def build(self, options: TokenMixerLargeOptions) -> None:
        """Build the blocks and the final norm."""
        num_tokens, token_dim, num_blocks = self.num_tokens, self.token_dim, options.num_blocks
        where = placement(options.residual, options.norm_placement)
        heads = largest_heads(num_tokens, token_dim) if options.num_heads is None else options.num_heads
        check_heads(heads, token_dim)
        ffn_options = _ffn_options(options.ffn_options)
        self.num_auxiliary = int(num_blocks >= 3) if options.num_auxiliary is None else options.num_auxiliary
        self.auxiliary_after = auxiliary_blocks(num_blocks, self.num_auxiliary)
        self.joined = inter_residuals(num_blocks, options.inter_residual_every)

        def layer(slots: int, width: int, units: int) -> nn.Module:
            built = build_ffn(options.ffn, slots, width, units, ffn_options)
            start_ffn_(built, options.init_scales, scale_on=options.scale_on, distribution=options.init_distribution)
            return built

        sizes = _layer_sizes(num_tokens, token_dim, heads, options.hidden(token_dim))
        styles: dict[str, str] = {"norm": options.norm, "residual": options.residual, "norm_placement": where}
        self.blocks = nn.ModuleList(
            MixRevert(num_tokens, token_dim, heads, (layer(*sizes[0]), layer(*sizes[1])), **styles)
            for _ in range(num_blocks)
        )
        normalised = where == "pre" if options.final_norm is None else options.final_norm
        self.final_norm = build_norm(options.norm, token_dim) if normalised else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        """Run the stack."""
        self.check_tokens(tokens)
        kept: dict[int, Tensor] = {}
        for index, (block, earlier) in enumerate(zip(self.blocks, self.joined, strict=True)):
            tokens = self.run(block, tokens if earlier is None else tokens + kept[earlier])
            if index in self.joined or index in self.auxiliary_after:
                kept[index] = tokens
        self.intermediates = None
        if self.num_auxiliary and self.records:
            self.intermediates = [self.final_norm(kept[index]) for index in self.auxiliary_after]
        normed: Tensor = self.final_norm(tokens)
        return normed

    @classmethod
    def width_step(cls, options: TokenMixerLargeOptions) -> int:
        """The number that divides every token width: H."""
        return int(options.num_heads or options.num_tokens)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return the multiple of H nearest to ``width``; the hidden width takes up the rounding."""
        options["ffn_options"] = _ffn_options(options.get("ffn_options"))
        return super().dimensions(width, num_tokens=num_tokens, token_dim=token_dim, **options)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Blocks of :math:`3 n T^2 D^2 / H + 3 n T D^2` and the gains of two norms; one more norm at the end.

        Other FFNs than SwiGLU bring their own formula for the two terms.
        """
        chosen = cls.Options(**arguments)
        tokens, width = chosen.num_tokens, chosen.token_dim
        heads = chosen.num_heads or largest_heads(tokens, width)
        layers = sum(
            ffn_parameters(chosen.ffn, *sizes, _ffn_options(chosen.ffn_options))
            for sizes in _layer_sizes(tokens, width, heads, chosen.hidden(width))
        )
        gains = {"rms": 1, "layer": 2}[chosen.norm]
        norms = gains * (width + (width if chosen.residual == "outer" else tokens * width // heads))
        before = placement(chosen.residual, chosen.norm_placement) == "pre"
        last = gains * width if (before if chosen.final_norm is None else chosen.final_norm) else 0
        return int(chosen.num_blocks * (layers + norms) + last)


def inter_residuals(num_blocks: int, every: int | None) -> tuple[int | None, ...]:
    """Return for each block the earlier one, counted from 0, whose output its input receives, or None.

    Example:
        >>> inter_residuals(6, 2)
        (None, None, 0, None, 2, None)
        >>> inter_residuals(5, 2)  # not into the last block
        (None, None, 0, None, None)
    """
    if every is None:
        return (None,) * num_blocks
    if every < 2:
        raise UnimixerError(
            f"inter_residual_every={every} must be at least 2, because a block reads the output of the one before "
            "it anyway; None switches inter-residuals off"
        )
    return tuple(
        index - every if index >= every and index % every == 0 and index < num_blocks - 1 else None
        for index in range(num_blocks)
    )


def auxiliary_blocks(num_blocks: int, number: int) -> tuple[int, ...]:
    """Return evenly spaced blocks, counted from 0, without the last.

    Example:
        >>> auxiliary_blocks(4, 1), auxiliary_blocks(6, 2), auxiliary_blocks(3, 2)
        ((1,), (1, 3), (0, 1))
    """
    if not 0 <= number <= num_blocks - 1:
        raise UnimixerError(
            f"num_auxiliary={number} must be from 0 to num_blocks - 1 = {num_blocks - 1}, for the last "
            "block has the loss itself"
        )
    return tuple(block * num_blocks // (number + 1) - 1 for block in range(1, number + 1))


def start_ffn_(ffn: nn.Module, scales: Sequence[float], *, scale_on: str, distribution: str) -> None:
    """Start the matrices of any per-token FFN as :func:`~unimixer.blocks.small_ffn_init_` does, routers excepted."""
    widths = None
    if isinstance(ffn, ReLUMoE | TopKMoE):
        first, down, widths = ffn.experts.up.weight, ffn.experts.down, ffn.experts.widths
    elif isinstance(ffn, PerTokenSwiGLU):
        first, down = ffn.up_gate.weight, ffn.down.weight
    elif isinstance(ffn, PerTokenFFN):
        first, down = ffn.up.weight, ffn.down.weight
    else:
        raise TypeError(f"no start is known for {type(ffn).__name__}")
    small_ffn_init_(first, down, scales, widths=widths, scale_on=scale_on, distribution=distribution)


def _ffn_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    for name in ("down_scale", "scale_on"):
        if name in (options or {}):
            raise UnimixerError(f"ffn_options has {name!r}; here init_scales and scale_on of the backbone set it")
    return {"bias": False, **(options or {})}


def _layer_sizes(tokens: int, width: int, heads: int, hidden: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Tokens, width and hidden width of the layer on mixed tokens and of the one on tokens."""
    return (heads, tokens * width // heads, max(1, round(hidden * tokens / heads))), (tokens, width, hidden)
