"""RankMixer: the parameter-free rule and per-token FFNs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from unimixer.backbones.base import Backbone, nearest_multiple
from unimixer.blocks import build_ffn, build_norm, build_stream
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
        ffn: ``"gelu"`` or ``"swiglu"``.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"`` or ``"siamese"``.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

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
        norm: str = "layer",
        residual: str = "post",
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
        blocks = [
            (TokenMixing(num_tokens, token_dim, num_tokens), build_ffn(ffn, num_tokens, token_dim, hidden_dim))
            for _ in range(num_blocks)
        ]
        self.stack = build_stream(residual, blocks, token_dim, lambda width: build_norm(norm, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        self.check_tokens(tokens)
        output: Tensor = self.stack(tokens)
        return output

    @classmethod
    def dimensions(
        cls, size: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """The multiple of T nearest to ``size``; the hidden width takes up the rounding."""
        token_dim = nearest_multiple(size, num_tokens) if token_dim is None else token_dim
        hidden_dim = max(1, round(float(options.get("expansion", 4.0)) * size**2 / token_dim))
        return {"token_dim": token_dim, "hidden_dim": hidden_dim}
