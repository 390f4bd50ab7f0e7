"""HiFormer: attention whose queries, keys and values are projected from all tokens together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unimixer.backbones.attention import AttentionBackbone, AttentionSublayer, GatedAttentionOptions
from unimixer.blocks import Recomputing, build_norm
from unimixer.errors import UnimixerError, check_positive
from unimixer.mixing import BlockLinear, CompositeLinear

Ranks = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class HiFormerOptions(GatedAttentionOptions):
    """Keyword arguments of :class:`HiFormer`; their meaning is there."""

    rank: int | None = 64
    value_rank: int | None = None
    num_task_tokens: int = 0
    output_projection: bool = True


class HiFormer(AttentionBackbone):
    r"""Softmax attention over composite projections, and per-token FFNs.

    .. math:: [q_1 \dots q_T] = \mathrm{vec}(X) W_Q, \qquad W_Q = L_Q R_Q^\top \in \mathbb{R}^{TD \times TD},
              \qquad \text{K and V likewise}, \qquad
              y_i = \Big[ \sum_j A^1_{ij} v_j^1 \,\Vert\, \dots \Big] O_i

    HiFormer (arXiv:2311.05884), "composite projection" and "low-rank approximation": every query depends on all tokens.
    The full matrices have :math:`3 (TD)^2` numbers a block, so low rank is the default: 64 for queries, keys and
    values, or as wide as a token where ``width`` sets all sizes. The paper's own ranks are not known to us for certain
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
        residual: ``"post"``, ``"pre"``, ``"siamese"`` or ``"siamese-official"``, the last without task tokens only.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``, or ``(B, S * D)`` with task tokens

    Example:
        >>> HiFormer(num_tokens=4, token_dim=16, rank=8)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
        >>> HiFormer(num_tokens=4, token_dim=16, rank=8, num_task_tokens=2)(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 32])
    """

    Options: ClassVar[Any] = HiFormerOptions
    output_kind: Literal["tokens", "vector"] = "tokens"  # type: ignore[misc]  # with task tokens, an instance's is "vector"

    def check(self, options: HiFormerOptions) -> None:
        """Raise for options that do not fit."""
        super().check(options)
        tasks, residual = options.num_task_tokens, options.residual
        if tasks < 0:
            raise UnimixerError(f"num_task_tokens={tasks} must be at least 0; 0 reads out all tokens")
        if tasks and residual not in ("post", "pre"):
            raise UnimixerError(
                f"residual={residual!r} is not defined with num_task_tokens={tasks}; "
                "take 'post' or 'pre', or num_task_tokens=0"
            )

    def build(self, options: HiFormerOptions) -> None:
        """Build the residual stream, and with task tokens a last block for them alone."""
        self.check(options)
        tasks = self.num_task_tokens = options.num_task_tokens
        width = self.num_tokens + tasks

        def block(outputs: int) -> tuple[nn.Module, nn.Module]:
            attention = composite_sublayer(
                *(width, self.token_dim, options.num_heads),
                ranks=(options.rank, options.value_rank),
                out_tokens=outputs,
                output_projection=options.output_projection,
            )
            return attention, self.build_ffn(options, outputs)

        blocks = [block(width) for _ in range(options.num_blocks - (tasks > 0))]
        self.stack = self.build_stack(blocks, options) if blocks else nn.Identity()
        self.last: nn.Module | None = None
        if tasks:
            self.output_kind, self.out_dim = "vector", tasks * self.token_dim
            if options.residual == "pre" and blocks:
                self.stack.final_norm = nn.Identity()  # the residual goes on, the norm stands after the last block
            norms = [build_norm(options.norm, self.token_dim) for _ in range(2 + (options.residual == "pre"))]
            self.last = TaskBlock(*block(tasks), norms, num_task_tokens=tasks)
            self.task_tokens = nn.Parameter(torch.randn(tasks, self.token_dim) * 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack."""
        if self.last is None:
            return super().forward(tokens)
        self.check_tokens(tokens)
        tasks = self.task_tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        output: Tensor = self.last(self.stack(torch.cat([tokens, tasks], dim=1)))
        return output.flatten(1)

    @classmethod
    def around_ffn(cls, options: HiFormerOptions, token_dim: float) -> float:
        """Projections from all tokens, O of every token, and the task tokens."""
        blocks, tasks = cls.count_blocks(options), options.num_task_tokens
        tokens, ranks = options.num_tokens + tasks, (options.rank, options.value_rank)
        whole, last = (composite_parameters(tokens, outputs, token_dim, ranks) for outputs in (tokens, tasks))
        outputs = cls.count_ffns(options) * token_dim**2 if options.output_projection else 0.0
        return (blocks - (tasks > 0)) * whole + (tasks > 0) * last + outputs + tasks * token_dim

    @classmethod
    def count_ffns(cls, options: HiFormerOptions) -> int:
        """One a token and block; in the last block one a task token, if there are any."""
        blocks, tasks = cls.count_blocks(options), options.num_task_tokens
        return (blocks - (tasks > 0)) * (options.num_tokens + tasks) + tasks

    @classmethod
    def follows(cls, width: float, options: HiFormerOptions) -> dict[str, float]:
        """Ranks are as wide as a token."""
        return {"rank": width}

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
    ranks: tuple[int | None, int | None],
    out_tokens: int | None = None,
    output_projection: bool = True,
) -> AttentionSublayer:
    """Build attention over composite projections; ``out_tokens`` queries (default: one a token)."""
    out_tokens = num_tokens if out_tokens is None else out_tokens
    rank, value_rank = ranks
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
