"""Wukong: stacked factorization machines beside linear compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.blocks import Recomputing
from unimixer.errors import check_choice, check_positive
from unimixer.mixing import AttentiveValues, Compression, FactorizationMixing

FM_KINDS = ("optimized", "full", "attentive")


class FactorizationBlock(nn.Module):
    r"""Interactions by a factorization machine, then a network: n_F rows of width d.

    .. math:: \mathrm{FMB}(X) = \mathrm{reshape}_{n_F \times d}\big(
              \mathrm{MLP}(\mathrm{LN}(\mathrm{vec}(\mathrm{FM}(X)))) \big)

    Wukong (arXiv:2403.02545), "factorization machine block". The inner norm acts on the flattened vector; the last
    layer of the network is linear.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, n_F, d)``

    Example:
        >>> mixing = FactorizationMixing(num_tokens=4, token_dim=6, num_projections=3)
        >>> FactorizationBlock(mixing, token_dim=6, num_outputs=2, hidden_dims=(8,))(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 2, 6])
    """

    def __init__(
        self, mixing: FactorizationMixing, *, token_dim: int, num_outputs: int, hidden_dims: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_outputs, self.mixing = num_outputs, mixing
        width = mixing.local.num_blocks * mixing.local.out_dim
        self.norm = nn.LayerNorm(width)
        self.hidden = hidden_layers(width, hidden_dims, batch_norm=False, dropout=0.0)
        self.output = nn.Linear(hidden_dims[-1] if hidden_dims else width, num_outputs * token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Interact and transform."""
        interactions = self.norm(self.mixing(tokens).flatten(1))
        rows: Tensor = self.output(self.hidden(interactions))
        return rows.view(tokens.shape[0], self.num_outputs, tokens.shape[2])


class WukongLayer(nn.Module):
    r"""A factorization machine block beside a linear compression block.

    .. math:: X' = \mathrm{LN}\big( [\, \mathrm{FMB}(X) \Vert \mathrm{LCB}(X) \,] + W_{res} X \big), \qquad
              \mathrm{LCB}(X) = W_L X

    Wukong (arXiv:2403.02545), "Wukong layer". :math:`W_{res}` is the identity where the number of rows stays.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, n_F + n_L, d)``

    Example:
        >>> block = FactorizationBlock(FactorizationMixing(4, 6, 3), token_dim=6, num_outputs=2, hidden_dims=(8,))
        >>> WukongLayer(block, num_tokens=4, token_dim=6, num_linear=5)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 7, 6])
    """

    def __init__(self, block: FactorizationBlock, num_tokens: int, token_dim: int, num_linear: int) -> None:
        super().__init__()
        rows = block.num_outputs + num_linear
        self.factorization = block
        self.compression = Compression(num_tokens, token_dim, num_linear)
        self.residual = nn.Identity() if rows == num_tokens else Compression(num_tokens, token_dim, rows)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Interact, compress, add, normalise."""
        factorized, compressed = self.factorization(tokens), self.compression(tokens)
        rows = torch.cat([factorized, compressed.to(factorized.dtype)], dim=1)
        output: Tensor = self.norm(rows + self.residual(tokens))
        return output


@dataclass(frozen=True, kw_only=True)
class WukongOptions(FieldShape):
    """Keyword arguments of :class:`Wukong`; their meaning is there."""

    num_layers: int = 2
    num_factorized: int = 16
    num_linear: int = 16
    num_projections: int = 24
    fm: str = "optimized"
    hidden_dims: Sequence[int] = (512, 512)
    head_dims: Sequence[int] = (512,)
    pooling: str = "flatten"
    num_compressed: int = 8
    attentive_dims: Sequence[int] = (64,)

    def num_rows(self) -> list[int]:
        """Return the rows that enter each layer."""
        return [self.num_tokens, *[self.num_factorized + self.num_linear] * (self.num_layers - 1)]


class Wukong(Recomputing, FieldBackbone):
    r"""A stack of factorization machines: layer l holds interactions of orders 1 to :math:`2^l`.

    .. math:: X_{l+1} = \mathrm{LN}\big( [\, \mathrm{FMB}(X_l) \Vert \mathrm{LCB}(X_l) \,] + W_{res} X_l \big)

    Wukong (arXiv:2403.02545). The rows of the last layer are flattened into a final network; its last linear layer is
    the task tower here. Norms act over d. Silent in the paper: the network of "attentive" (ours, experimental), an
    activation after the last layer of FMB's network (none here).

    Args:
        num_tokens: n, one token a field.
        token_dim: d.
        num_layers: l; the paper grows it first.
        num_factorized: rows n_F from every factorization machine block.
        num_linear: rows n_L from every linear compression block.
        num_projections: k, columns of Y.
        fm: ``"optimized"`` is :math:`X X^T Y` with a learned Y, ``"full"`` is :math:`X X^T`, ``"attentive"`` is
            :math:`X X^T Y(X)`.
        hidden_dims: hidden widths of FMB's network, with ReLU.
        head_dims: widths of the final network, with ReLU; empty gives its input.
        pooling: ``"flatten"``, or ``"mean"`` over rows, as public code has it.
        num_compressed: rows of the compressed input of ``"attentive"``.
        attentive_dims: hidden widths of the network of ``"attentive"``.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, head_dims[-1])``

    Example:
        >>> model = Wukong(num_tokens=4, token_dim=16, hidden_dims=(32,), head_dims=(8,))
        >>> model(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 8])
    """

    Options: ClassVar[Any] = WukongOptions
    family: ClassVar[str] = "fm"

    def __init__(self, **options: Any) -> None:
        chosen = self.Options(**options)
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, num_layers=chosen.num_layers)
        check_positive(
            num_factorized=chosen.num_factorized, num_linear=chosen.num_linear, num_projections=chosen.num_projections
        )
        check_choice("fm", chosen.fm, FM_KINDS)
        check_choice("pooling", chosen.pooling, ("flatten", "mean"))
        rows = chosen.num_factorized + chosen.num_linear
        pooled = chosen.token_dim if chosen.pooling == "mean" else rows * chosen.token_dim
        super().__init__(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            out_dim=chosen.head_dims[-1] if chosen.head_dims else pooled,
        )
        self.pooling = chosen.pooling

        def layer(n: int) -> WukongLayer:
            values = None
            if chosen.fm == "attentive":
                values = AttentiveValues(
                    n,
                    chosen.token_dim,
                    chosen.num_projections,
                    num_compressed=chosen.num_compressed,
                    hidden_dims=chosen.attentive_dims,
                )
            mixing = FactorizationMixing(
                n, chosen.token_dim, None if chosen.fm == "full" else chosen.num_projections, values=values
            )
            block = FactorizationBlock(
                mixing, token_dim=chosen.token_dim, num_outputs=chosen.num_factorized, hidden_dims=chosen.hidden_dims
            )
            return WukongLayer(block, n, chosen.token_dim, chosen.num_linear)

        self.layers = nn.Sequential(*map(layer, chosen.num_rows()))
        self.head = hidden_layers(pooled, chosen.head_dims, batch_norm=False, dropout=0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack and the final network."""
        self.check_tokens(tokens)
        rows = tokens
        for layer in self.layers:
            rows = self.run(layer, rows)
        return self.read_out(rows)

    def read_out(self, rows: Tensor) -> Tensor:
        """Pool the rows of the last layer and run the final network."""
        output: Tensor = self.head(rows.mean(1) if self.pooling == "mean" else rows.flatten(1))
        return output

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A layer on n rows has :math:`n k + n_L n`, its network from n k to :math:`n_F d`, norms of 2 n k and 2 d.

        :math:`n (n_F + n_L)` where rows change; "full" has k = n and no Y; "attentive" a network for Y instead of it.
        """
        chosen = cls.Options(**arguments)
        width, n_f, n_l = chosen.token_dim, chosen.num_factorized, chosen.num_linear
        rows, hidden = n_f + n_l, tuple(chosen.hidden_dims)

        def layer(n: int) -> int:
            k = n if chosen.fm == "full" else chosen.num_projections
            projection = {"full": 0, "optimized": n * k}.get(chosen.fm)
            if projection is None:
                m, inner = chosen.num_compressed, tuple(chosen.attentive_dims)
                projection = m * n + count_hidden(m * width, (*inner, n * k), batch_norm=False)
            network = count_hidden(n * k, (*hidden, n_f * width), batch_norm=False)
            residual = 0 if n == rows else rows * n
            return int(projection + 2 * n * k + network + n_l * n + residual + 2 * width)

        pooled = width if chosen.pooling == "mean" else rows * width
        return sum(map(layer, chosen.num_rows())) + count_hidden(pooled, chosen.head_dims, batch_norm=False)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Two hidden layers of ``width`` in every block and one in the final network; rows and k stay."""
        hidden = max(1, round(width))
        return {
            "token_dim": 32 if token_dim is None else token_dim,
            "hidden_dims": (hidden, hidden),
            "head_dims": (hidden,),
        }
