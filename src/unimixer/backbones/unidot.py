"""UniDot: Wukong's layers, each of which also sends dot products past the stack to the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimixer.backbones.wukong import Wukong, WukongOptions
from unimixer.blocks import PairProducts
from unimixer.errors import check_choice, check_positive
from unimixer.mixing import Compression

PRODUCTS = ("query-key", "gram")


@dataclass(frozen=True, kw_only=True)
class UniDotOptions(WukongOptions):
    """Keyword arguments of :class:`UniDot`; their meaning is there."""

    products: str = "query-key"
    num_queries: int = 16
    output_scale: float = 0.0

    def num_products(self, num_rows: int) -> int:
        """Dot products of a layer on so many rows."""
        return self.num_queries**2 if self.products == "query-key" else num_rows * (num_rows - 1) // 2


class QueryKeyProducts(nn.Module):
    r"""Dot products of learned sums of the rows, :math:`\mathrm{vec}\big( (W_Q X) (W_K X)^\top \big)`.

    Shape:
        - rows: ``(B, n, d)``; output: ``(B, k^2)``

    Example:
        >>> QueryKeyProducts(num_tokens=4, token_dim=6, num_queries=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 9])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_queries: int) -> None:
        super().__init__()
        self.query, self.key = (Compression(num_tokens, token_dim, num_queries) for _ in range(2))

    def forward(self, rows: Tensor) -> Tensor:
        """Sum and multiply."""
        return torch.bmm(self.query(rows), self.key(rows).mT).flatten(1)


class UniDot(Wukong):
    r"""A stack of factorization machines beside linear compression, and dot products from every layer.

    .. math:: X_{l+1} = \mathrm{LN}\big( [\, \mathrm{FMB}(X_l) \Vert \mathrm{LCB}(X_l) \,] + W_{res} X_l \big), \qquad
              h = [\, \mathrm{MLP}(\mathrm{vec}(X_L)) \Vert \phi(X_0) \Vert \dots \Vert \phi(X_{L-1}) \,]

    UniDot (arXiv:2608.16797), with the layers of :class:`Wukong` (arXiv:2403.02545). Explicit products need not survive
    the layers above them. Output projections start at zero: at first a layer is compression and residual alone.

    Ours, where we know no more: :math:`\phi = \mathrm{vec}((W_Q X) (W_K X)^\top) / \sqrt{d}`, with 16 queries and keys
    that are learned sums of the rows; the projection that starts at zero is the last layer of FMB's network. Products
    of user with item are not here, since a backbone does not know which rows are which.

    Args:
        num_tokens: n, one token a field.
        token_dim: d.
        num_layers: L.
        products: ``"query-key"``, or ``"gram"``: :math:`\phi = \{ x_i^\top x_j : i > j \} / \sqrt{d}`, the rows
            themselves.
        num_queries: k, rows of :math:`W_Q` and :math:`W_K`.
        output_scale: multiplies the start of the last layer of FMB's network; 1 is that of Wukong.
        num_factorized: rows n_F from every factorization machine block.
        num_linear: rows n_L from every linear compression block.
        num_projections: columns of Y.
        fm: ``"optimized"``, ``"full"`` or ``"attentive"``, as in :class:`Wukong`.
        hidden_dims: hidden widths of FMB's network, with ReLU.
        head_dims: widths of the final network, with ReLU; empty gives its input.
        pooling: ``"flatten"`` or ``"mean"`` over rows.
        num_compressed: rows of the compressed input of ``"attentive"``.
        attentive_dims: hidden widths of the network of ``"attentive"``.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, head_dims[-1] + L k^2)``

    Example:
        >>> model = UniDot(num_tokens=4, token_dim=16, hidden_dims=(32,), head_dims=(8,), num_queries=3)
        >>> model(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 26])
    """

    Options: ClassVar[Any] = UniDotOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = UniDotOptions(**options)
        check_choice("products", chosen.products, PRODUCTS)
        check_positive(num_queries=chosen.num_queries)
        rows = chosen.num_rows()

        def dots(n: int) -> nn.Module:
            if chosen.products == "gram":
                return PairProducts(n)
            return QueryKeyProducts(n, self.token_dim, chosen.num_queries)

        self.dots = nn.ModuleList(map(dots, rows))
        self.out_dim += sum(map(chosen.num_products, rows))
        with torch.no_grad():
            for layer in self.layers:
                for parameter in layer.get_submodule("factorization.output").parameters():
                    parameter.mul_(chosen.output_scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack and the final network; append the products of every layer."""
        self.check_tokens(tokens)
        rows, sent = tokens, []
        for layer, dots in zip(self.layers, self.dots, strict=True):
            sent.append(dots(rows) * self.token_dim**-0.5)
            rows = self.run(layer, rows)
        return torch.cat([self.read_out(rows), *sent], dim=1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""Those of :class:`Wukong` and, with ``"query-key"``, :math:`2 k n` for every layer on n rows."""
        chosen = UniDotOptions(**arguments)
        queries = 2 * chosen.num_queries * sum(chosen.num_rows()) if chosen.products == "query-key" else 0
        return super().formula(**arguments) + queries
