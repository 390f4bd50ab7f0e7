"""HubMixer: tokens meet through learned hubs, then per-token FFNs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unimixer.backbones.mixer import MixerBackbone, StreamOptions
from unimixer.mixing import HubMixing, Mixing


@dataclass(frozen=True, kw_only=True)
class HubMixerOptions(StreamOptions):
    """Keyword arguments of :class:`HubMixer`; their meaning is there."""

    expansion: float = 2.0
    ffn: str = "swiglu"
    norm: str = "rms"
    residual: str = "pre"
    num_hubs: int = 16
    num_heads: int = 4


class HubMixer(MixerBackbone):
    r"""A stack of mixing through hubs and per-token FFNs.

    .. math:: Y = X + \mathrm{Hubs}(\mathrm{N}(X)), \qquad X' = Y + \mathrm{FFN}(\mathrm{N}(Y))

    HubMixer (arXiv:2608.27991), with the hubs of :class:`~unimixer.mixing.HubMixing`: cost O(T M) instead of the
    O(T^2) of attention between tokens. Ours, where we know no more: norms before the sublayers, SwiGLU, its expansion,
    and the number of heads.

    Args:
        num_tokens: T.
        token_dim: D, divisible by ``num_heads``.
        num_blocks: blocks of one mixing and one FFN.
        num_hubs: M.
        num_heads: heads of the attentions from, between and to hubs.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"swiglu"``, ``"gelu"``, ``"relu-moe"`` or ``"topk-moe"``.
        ffn_options: of a mixture, see :class:`~unimixer.blocks.ReLUMoE` and :class:`~unimixer.blocks.TopKMoE`.
        norm: ``"rms"`` or ``"layer"``; hubs have RMS norms always.
        residual: ``"pre"``, ``"post"``, ``"siamese"``, ``"siamese-official"`` or ``"bare-mixing"``.
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
        >>> HubMixer(num_tokens=4, token_dim=16)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    Options: ClassVar[Any] = HubMixerOptions
    batch_last = False  # products over the width of a token gain nothing by batch-last tokens

    def build_mixing(self, options: HubMixerOptions) -> Mixing:
        """Build the mixing of one block."""
        return HubMixing(self.num_tokens, self.token_dim, options.num_hubs, options.num_heads)

    @classmethod
    def mixing_parameters(cls, options: HubMixerOptions) -> int:
        r"""Parameters of the mixing of one block: :math:`14 D^2 + (M + 5) D`."""
        return HubMixing.num_parameters(options.token_dim, options.num_hubs)

    @classmethod
    def width_step(cls, options: HubMixerOptions) -> int:
        """The number that divides every token width."""
        return int(options.num_heads)
