"""MaskNet: hidden layers whose inputs are multiplied by masks made from the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.blocks import Recomputing
from unimixer.errors import UnimixerError, check_choice, check_positive


class FieldNorm(nn.Module):
    r"""Layer norm of every token with its own scale and shift: :math:`\mathrm{LN}(x_t) \odot g_t + b_t`.

    MaskNet (arXiv:2102.07619), "LN_EMB". Own scales for every field are ours, as in public code.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> FieldNorm(1, 2)(torch.tensor([[[1.0, 3.0]]])).round().tolist()
        [[[-1.0, 1.0]]]
    """

    def __init__(self, num_tokens: int, token_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tokens, token_dim))
        self.bias = nn.Parameter(torch.zeros(num_tokens, token_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise over D."""
        return F.layer_norm(tokens, self.weight.shape[1:]) * self.weight + self.bias


class MaskBlock(nn.Module):
    r"""One masked layer.

    .. math:: m = W_2\, \mathrm{ReLU}(W_1 V + b_1) + b_2, \qquad h' = \mathrm{ReLU}(\mathrm{LN}(W (m \odot h)))

    MaskNet (arXiv:2102.07619), "MaskBlock"; V are the embeddings before any norm, and the mask has a hidden layer of
    ``ratio`` times the width that it masks.

    Shape:
        - embeddings: ``(B, L)``, hidden: ``(B, in_dim)``; output: ``(B, out_dim)``

    Example:
        >>> MaskBlock(8, in_dim=6, out_dim=4)(torch.ones(3, 8), torch.ones(3, 6)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self, embeddings_dim: int, *, in_dim: int, out_dim: int, ratio: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        mask_dim = mask_width(in_dim, ratio)
        self.mask = nn.Sequential(nn.Linear(embeddings_dim, mask_dim), nn.ReLU(), nn.Linear(mask_dim, in_dim))
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, embeddings: Tensor, hidden: Tensor) -> Tensor:
        """Mask, transform, normalise."""
        output: Tensor = self.dropout(F.relu(self.norm(self.linear(self.mask(embeddings) * hidden))))
        return output


def mask_width(in_dim: int, ratio: float) -> int:
    """Hidden width of the mask of a layer that is ``in_dim`` wide: ``ratio`` times as many, rounded, at least 1."""
    return max(1, round(ratio * in_dim))


@dataclass(frozen=True, kw_only=True)
class MaskNetOptions(FieldShape):
    """Keyword arguments of :class:`MaskNet`; their meaning is there."""

    block_dims: Sequence[int] = (400, 400, 400)
    structure: str = "serial"
    ratio: float = 1.0
    hidden_dims: Sequence[int] | None = None
    batch_norm: bool = False
    dropout: float = 0.0


class MaskNet(Recomputing, FieldBackbone):
    r"""Masked layers one after the other, or side by side.

    MaskNet (arXiv:2102.07619). ``"serial"``: the first block masks the normalised embeddings, every later one the
    output of the block before it. ``"parallel"``: all blocks mask the normalised embeddings, and their outputs are
    concatenated into hidden layers. Every mask reads the embeddings before their norm. The final linear layer of the
    paper is the task tower here. Defaults are a public template's; on Criteo, two parallel blocks of 500 with ratio
    0.1, five hidden layers of 1000 and dropout 0.3 did best.

    .. math:: \mathrm{block}(h) = \mathrm{ReLU}\big(\mathrm{LN}(W (m \odot h))\big), \qquad
              m = W_2\, \mathrm{ReLU}(W_1 e + b_1) + b_2

    with e the flattened tokens, and h their norms or the output of the block before.

    Args:
        num_tokens: T, one token a field.
        token_dim: D.
        block_dims: output widths of the blocks, as many as there are blocks.
        structure: ``"serial"`` or ``"parallel"``.
        ratio: hidden width of a mask over the width that it masks.
        hidden_dims: hidden layers behind the blocks; None has no layer in serial, and three of 400 in parallel.
        batch_norm: in the hidden layers behind the blocks; the blocks have layer norm.
        dropout: in blocks and hidden layers.

    Shape:
        - tokens: ``(B, T, D)``
        - output: ``(B, hidden_dims[-1])``; with no hidden layer the last block's (serial) or all blocks' (parallel)

    Example:
        >>> MaskNet(num_tokens=4, token_dim=16, block_dims=(32, 8))(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 8])
    """

    Options: ClassVar[Any] = MaskNetOptions
    family: ClassVar[str] = "mask"
    global_pattern: ClassVar[str] = "dense layers across all tokens under masks made from them"

    def __init__(self, **options: Any) -> None:
        chosen = MaskNetOptions(**options)
        check_choice("structure", chosen.structure, ("serial", "parallel"))
        if not chosen.block_dims:
            raise UnimixerError("block_dims is empty; MaskNet needs at least one block, such as [400]")
        check_positive(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            ratio=chosen.ratio,
            block_dims=min(chosen.block_dims),
        )
        length, serial = chosen.num_tokens * chosen.token_dim, chosen.structure == "serial"
        hidden_dims = default_hidden(chosen.structure) if chosen.hidden_dims is None else chosen.hidden_dims
        width = chosen.block_dims[-1] if serial else sum(chosen.block_dims)
        super().__init__(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            out_dim=hidden_dims[-1] if hidden_dims else width,
        )
        self.serial = serial
        self.norm = FieldNorm(chosen.num_tokens, chosen.token_dim)
        self.blocks = nn.ModuleList(
            MaskBlock(length, in_dim=in_dim, out_dim=out_dim, ratio=chosen.ratio, dropout=chosen.dropout)
            for in_dim, out_dim in block_widths(chosen.structure, length, chosen.block_dims)
        )
        self.hidden = hidden_layers(width, hidden_dims, batch_norm=chosen.batch_norm, dropout=chosen.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the blocks and the layers behind them."""
        self.check_tokens(tokens)
        embeddings, hidden = tokens.flatten(1), self.norm(tokens).flatten(1)
        if self.serial:
            for block in self.blocks:
                hidden = self.run(block, embeddings, hidden)
        else:
            hidden = torch.cat([self.run(block, embeddings, hidden) for block in self.blocks], dim=-1)
        output: Tensor = self.hidden(hidden)
        return output

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Norm :math:`2 T D`; a block :math:`(L + 1) r + (r + 1) n + n m + 2 m`, with n in, m out, r in its mask."""
        chosen = MaskNetOptions(**arguments)
        length, structure = chosen.num_tokens * chosen.token_dim, chosen.structure
        total = 2 * length
        for n, m in block_widths(structure, length, chosen.block_dims):
            r = mask_width(n, chosen.ratio)
            total += (length + 1) * r + (r + 1) * n + n * m + 2 * m
        width = chosen.block_dims[-1] if structure == "serial" else sum(chosen.block_dims)
        hidden = default_hidden(structure) if chosen.hidden_dims is None else chosen.hidden_dims
        return total + count_hidden(width, hidden, batch_norm=chosen.batch_norm)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Three blocks of ``width`` (parallel: two, and three hidden layers); masks no wider inside than the blocks.

        A mask of ratio 1 alone has ``2 * (T * D) ** 2`` weights, too many for a small model of many fields, so the
        ratio is ``width / (T * D)`` up to 1.
        """
        token_dim = 16 if token_dim is None else token_dim
        block, ratio = max(1, round(width)), min(1.0, width / (num_tokens * token_dim))
        if options.get("structure", "serial") == "serial":
            return {"token_dim": token_dim, "block_dims": (block,) * 3, "ratio": ratio}
        return {"token_dim": token_dim, "block_dims": (block,) * 2, "hidden_dims": (block,) * 3, "ratio": ratio}


def default_hidden(structure: str) -> tuple[int, ...]:
    """Hidden layers behind the blocks where none are given."""
    return () if structure == "serial" else (400, 400, 400)


def block_widths(structure: str, length: int, block_dims: Sequence[int]) -> list[tuple[int, int]]:
    """Return the in and out width of every block."""
    return list(pairwise((length, *block_dims))) if structure == "serial" else [(length, m) for m in block_dims]
