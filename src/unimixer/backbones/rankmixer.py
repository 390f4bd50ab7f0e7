"""RankMixer: the parameter-free rule and per-token FFNs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from unimixer import ops
from unimixer.backbones.base import Backbone, nearest_multiple
from unimixer.blocks import build_ffn, build_norm, build_stream, ffn_matrices, ffn_parameters, matched_hidden
from unimixer.blocks.cross_attention import attention_parameters, build_attention
from unimixer.blocks.residual import Block, count_norms
from unimixer.errors import UnimixerError, check_divisible, check_positive
from unimixer.mixing import TokenMixing


class RankMixer(Backbone):
    r"""A stack of parameter-free token mixing and per-token FFN.

    .. math:: S = \mathrm{LN}(X + \mathrm{Mix}(X)), \qquad X' = \mathrm{LN}(S + \mathrm{FFN}(S))

    RankMixer (arXiv:2507.15551), "block". The paper is silent on the expansion; 4 fits its sizes about as well as 3.

    Args:
        num_tokens: T.
        token_dim: D, divisible by T: the rule has one head a token.
        num_blocks: blocks of one mixing and one FFN.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        num_heads: must equal ``num_tokens``, or the residual would not fit.
        ffn: ``"gelu"``, ``"swiglu"``, ``"relu-moe"`` (the paper's sparse variant) or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"`` or ``"siamese"``.
        sequence_dim: width of events that a third sublayer between mixing and FFN attends to, see
            :class:`~unimixer.blocks.CrossAttention` (default: there is none; ``Ranker(sequences="cross_attention")``
            sets it).
        sequence_head_dim: width of its queries, keys and values (default: D).
        sequence_hidden_dim: hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none.

    Shape:
        - tokens: ``(B, T, D)``; with ``sequence_dim`` also events ``(B, S, C)`` and their mask ``(B, S)``
        - output: ``(B, T, D)``

    Example:
        >>> RankMixer(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    family: ClassVar[str] = "mixer"
    default_tokenizer: ClassVar[Literal["chunk", "field"]] = "chunk"

    def __init__(
        self,
        *,
        num_tokens: int = 16,
        token_dim: int = 64,
        num_blocks: int = 2,
        hidden_dim: int | None = None,
        expansion: float = 4.0,
        num_heads: int | None = None,
        ffn: str = "gelu",
        ffn_options: Mapping[str, Any] | None = None,
        norm: str = "layer",
        residual: str = "post",
        sequence_dim: int | None = None,
        sequence_head_dim: int | None = None,
        sequence_hidden_dim: int | None = None,
    ) -> None:
        super().__init__(num_tokens=num_tokens, token_dim=token_dim)
        check_positive(num_tokens=num_tokens, token_dim=token_dim, num_blocks=num_blocks)
        if num_heads not in (None, num_tokens):
            raise UnimixerError(
                f"num_heads={num_heads} must equal num_tokens={num_tokens}, or the mixed tokens would not fit "
                "the residual; backbone 'unimixer-lite' has no such rule"
            )
        check_divisible("token_dim", token_dim, by="num_tokens", divisor=num_tokens)
        hidden_dim = max(1, round(expansion * token_dim)) if hidden_dim is None else hidden_dim
        self.sequence_dim = sequence_dim
        self.widest = num_tokens * hidden_dim * (2 if ffn == "swiglu" else 1)

        def build_block() -> Block:
            ffn_module = build_ffn(ffn, num_tokens, token_dim, hidden_dim, ffn_options)
            attention = build_attention(num_tokens, token_dim, sequence_dim, sequence_head_dim, sequence_hidden_dim)
            return TokenMixing(num_tokens, token_dim, num_tokens), *attention, ffn_module

        blocks = [build_block() for _ in range(num_blocks)]
        self.stack = build_stream(residual, blocks, token_dim, lambda width: build_norm(norm, width))

    def forward(self, tokens: Tensor, events: Tensor | None = None, event_mask: Tensor | None = None) -> Tensor:
        """Run the stack."""
        self.check_tokens(tokens)
        self.check_events(events, event_mask)
        output: Tensor = self.stack(ops.batch_last(tokens, self.widest), events, event_mask)
        return ops.batch_first(output)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's T FFNs and two norms; no parameter in its mixing.

        A GELU FFN has :math:`2 D h + h + D`, a SwiGLU :math:`3 D h + 2 h + D`, a layer norm :math:`2 D`, an RMS norm D.
        Residual ``"pre"`` has one norm more, ``"siamese"`` three a block and one more. An attention to events adds its
        own parameters and one norm a block.
        """
        given = {name: option.default for name, option in cls.options().items()} | arguments
        token_dim, num_blocks = int(given["token_dim"]), int(given["num_blocks"])
        hidden_dim = given["hidden_dim"] or max(1, round(given["expansion"] * token_dim))
        ffns = ffn_parameters(given["ffn"], given["num_tokens"], token_dim, hidden_dim, given["ffn_options"])
        norm = token_dim * (1 + (given["norm"] == "layer"))
        norms = count_norms(given["residual"], num_blocks, attention=given["sequence_dim"] is not None)
        attention = attention_parameters(given["num_tokens"], token_dim, given)
        return int(num_blocks * (ffns + attention) + norms * norm)

    @classmethod
    def dimensions(
        cls, size: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """The multiple of T nearest to ``size``; the hidden width takes up the rounding, routers and attention."""
        token_dim = nearest_multiple(size, num_tokens) if token_dim is None else token_dim
        wanted = float(options.get("expansion", 4.0)) * size**2 / token_dim
        ffn, ffn_options = options.get("ffn", "gelu"), options.get("ffn_options")
        attention = attention_parameters(num_tokens, token_dim, options)
        wanted -= attention / (ffn_matrices(ffn, ffn_options) * num_tokens * token_dim)
        hidden_dim = matched_hidden(ffn, num_tokens, token_dim, wanted, ffn_options)
        return {"token_dim": token_dim, "hidden_dim": hidden_dim}
