"""HiFormer: attention whose queries, keys and values are projected from all tokens together."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from unimixer.backbones.attention import (
    Arguments,
    AttentionBackbone,
    AttentionSublayer,
    check_sizes,
    hidden_width,
)
from unimixer.blocks import Recomputing, build_ffn, build_norm
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.mixing import BlockLinear, CompositeLinear

Ranks = tuple[float | None, float | None]


class HiFormer(AttentionBackbone):
    r"""Softmax attention over composite projections, and per-token FFNs.

    .. math:: [q_1 \dots q_T] = \mathrm{vec}(X) W_Q, \qquad W_Q = L_Q R_Q^\top \in \mathbb{R}^{TD \times TD},
              \qquad \text{K and V likewise}, \qquad
              y_i = \Big[ \sum_j A^1_{ij} v_j^1 \,\Vert\, \dots \Big] O_i

    HiFormer (arXiv:2311.05884), "composite projection" and "low-rank approximation": every query depends on all tokens.
    The full matrices have :math:`3 (TD)^2` numbers a block, so low rank is the default: 64 for queries, keys and
    values, or as wide as a token where the dial sets the width. The paper's own ranks are not known to us for certain
    (128 for queries and keys and 1024 for values are remembered; public code has 8 to 256), and neither is where its
    norms stand: here after every addition.

    Task tokens are learned, appended to the tokens, and read out; the last block computes queries, residual and FFN for
    them alone. The output is then their concatenation, a vector, and every task's tower sees all of them.

    Here T is the comparison's own and a token is a piece of the embedding; ``tokenizer: field`` gives the paper's one
    token a field.

    Args:
        num_tokens: T.
        token_dim: D, divisible by ``num_heads``.
        num_blocks: blocks of one attention and one FFN.
        num_heads: H.
        rank: of queries and keys; None for full matrices.
        value_rank: of values (default: ``rank``).
        num_task_tokens: learned tokens S that are appended and read out; 0 for none, and all tokens are the output.
        output_projection: whether there is a map O of every token's own; public code exists without it.
        hidden_dim: hidden width of the FFN (default: ``expansion * token_dim``).
        expansion: ratio of hidden to token width.
        ffn: ``"gelu"`` or ``"swiglu"``.
        norm: ``"layer"`` or ``"rms"``.
        residual: ``"post"``, ``"pre"`` or ``"siamese"``, the last without task tokens only.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``, or ``(B, S * D)`` with task tokens

    Example:
        >>> HiFormer(num_tokens=4, token_dim=16, rank=8)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
        >>> HiFormer(num_tokens=4, token_dim=16, rank=8, num_task_tokens=2)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 32])
    """

    readout: Literal["tokens", "vector"] = "tokens"  # type: ignore[misc]  # with task tokens, an instance's is "vector"

    def __init__(
        self,
        *,
        num_tokens: int = 16,
        token_dim: int = 64,
        num_blocks: int = 2,
        num_heads: int = 4,
        rank: int | None = 64,
        value_rank: int | None = None,
        num_task_tokens: int = 0,
        output_projection: bool = True,
        hidden_dim: int | None = None,
        expansion: float = 4.0,
        ffn: str = "gelu",
        norm: str = "layer",
        residual: str = "post",
    ) -> None:
        out_dim = num_task_tokens * token_dim if num_task_tokens > 0 else None
        super().__init__(num_tokens=num_tokens, token_dim=token_dim, out_dim=out_dim)
        check_sizes(num_tokens=num_tokens, token_dim=token_dim, num_blocks=num_blocks, num_heads=num_heads)
        check_choice("ffn", ffn, ("gelu", "swiglu"))
        if num_task_tokens < 0:
            raise UnimixerError(f"num_task_tokens={num_task_tokens} must be at least 0; 0 reads out all tokens")
        if num_task_tokens and residual not in ("post", "pre"):
            raise UnimixerError(
                f"residual={residual!r} is not defined with num_task_tokens={num_task_tokens}; "
                "take 'post' or 'pre', or num_task_tokens=0"
            )
        hidden_dim = hidden_width(hidden_dim, expansion, token_dim)
        self.num_task_tokens, width = num_task_tokens, num_tokens + num_task_tokens

        def block(outputs: int) -> tuple[nn.Module, nn.Module]:
            attention = composite_sublayer(
                width,
                token_dim,
                num_heads,
                rank=rank,
                value_rank=value_rank,
                out_tokens=outputs,
                output_projection=output_projection,
            )
            return attention, build_ffn(ffn, outputs, token_dim, hidden_dim)

        blocks = [block(width) for _ in range(num_blocks - (num_task_tokens > 0))]
        self.stack = self.stacked(blocks, residual, norm) if blocks else nn.Identity()
        self.last: nn.Module | None = None
        if num_task_tokens:
            self.readout = "vector"
            if residual == "pre" and blocks:
                self.stack.final_norm = nn.Identity()  # the residual goes on, the norm stands after the last block
            norms = [build_norm(norm, token_dim) for _ in range(2 + (residual == "pre"))]
            self.last = TaskBlock(*block(num_task_tokens), norms, num_task_tokens=num_task_tokens)
            self.task_tokens = nn.Parameter(torch.randn(num_task_tokens, token_dim) * 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        if self.last is None:
            return super().forward(tokens)
        self.check_tokens(tokens)
        tasks = self.task_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        output: Tensor = self.last(self.stack(torch.cat([tokens, tasks], dim=1)))
        return output.flatten(1)

    @classmethod
    def around_ffn(cls, given: Arguments, token_dim: float) -> float:
        """Projections from all tokens, O of every token, and the task tokens."""
        blocks, tasks = cls.count_blocks(given), int(given["num_task_tokens"])
        tokens, ranks = given["num_tokens"] + tasks, (given["rank"], given["value_rank"])
        whole, last = (composite_parameters(tokens, outputs, token_dim, ranks) for outputs in (tokens, tasks))
        outputs = cls.count_ffns(given) * token_dim**2 if given["output_projection"] else 0.0
        return (blocks - (tasks > 0)) * whole + (tasks > 0) * last + outputs + tasks * token_dim

    @classmethod
    def count_ffns(cls, given: Arguments) -> int:
        """One a token and block; in the last block one a task token, if there are any."""
        blocks, tasks = cls.count_blocks(given), int(given["num_task_tokens"])
        return (blocks - (tasks > 0)) * (int(given["num_tokens"]) + tasks) + tasks

    @classmethod
    def follows(cls, size: float, given: Arguments) -> Arguments:
        """Ranks are as wide as a token."""
        return {"rank": size}

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A block's :math:`3 (TD)^2`, or :math:`2 T D (2 r_k + r_v)` in low rank; :math:`T D^2` for O; FFNs; norms.

        With S task tokens, T is T + S, but for the outputs of the last block, which are S; the tokens add S D.
        """
        return super().formula(**arguments)


class TaskBlock(Recomputing):
    r"""The last block, for the last S tokens alone: attention to all tokens, and an FFN.

    Its output is that of an ordinary block at those S tokens, in a residual stream that normalises after additions (two
    norms) or before the sublayers and at the end (three).

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, S, D)``
    """

    def __init__(self, attention: nn.Module, ffn: nn.Module, norms: list[nn.Module], *, num_task_tokens: int) -> None:
        super().__init__()
        self.attention, self.ffn, self.norms = attention, ffn, nn.ModuleList(norms)
        self.num_task_tokens, self.pre = num_task_tokens, len(norms) == 3

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from the task tokens and transform them."""
        output: Tensor = self.run(self._transform, tokens)
        return output

    def _transform(self, tokens: Tensor) -> Tensor:
        tasks = tokens[:, -self.num_task_tokens :]
        if self.pre:
            tasks = tasks + self.attention(self.norms[0](tokens))
            tasks = tasks + self.ffn(self.norms[1](tasks))
        else:
            tasks = self.norms[0](tasks + self.attention(tokens))
            tasks = tasks + self.ffn(tasks)
        output: Tensor = self.norms[-1](tasks)
        return output


def composite_sublayer(
    num_tokens: int,
    token_dim: int,
    num_heads: int,
    *,
    rank: int | None,
    value_rank: int | None = None,
    out_tokens: int | None = None,
    output_projection: bool = True,
) -> AttentionSublayer:
    """Attention over composite projections; ``out_tokens`` queries (default: one a token)."""
    out_tokens = num_tokens if out_tokens is None else out_tokens
    for name, value in (("rank", rank), ("value_rank", value_rank)):
        if value is not None:
            check_positive(**{name: value})
    return AttentionSublayer(
        CompositeLinear(num_tokens, token_dim, token_dim, rank, out_blocks=out_tokens),
        CompositeLinear(num_tokens, token_dim, token_dim, rank),
        CompositeLinear(num_tokens, token_dim, token_dim, rank if value_rank is None else value_rank),
        BlockLinear(out_tokens, token_dim, token_dim) if output_projection else None,
        num_heads=num_heads,
    )


def composite_parameters(num_tokens: int, out_tokens: int, token_dim: float, ranks: Ranks) -> float:
    r"""Q (for ``out_tokens``), K and V: :math:`3 (TD)^2`, or :math:`2 T D (2 r_k + r_v)`, without O.

    Example:
        >>> composite_parameters(4, 4, 16, (None, None)), composite_parameters(4, 4, 16, (8, 5))
        (12288, 2688)
    """
    length, out_length = num_tokens * token_dim, out_tokens * token_dim
    rank, value_rank = ranks[0], ranks[0] if ranks[1] is None else ranks[1]
    queries = length * out_length if rank is None else rank * (length + out_length)
    keys = length**2 if rank is None else rank * 2 * length
    return queries + keys + (length**2 if value_rank is None else value_rank * 2 * length)
