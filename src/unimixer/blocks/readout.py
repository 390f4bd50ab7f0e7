"""From the tokens that leave a backbone to logits: pooling, crosses, experts and one tower a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.blocks.cross_layer import CrossLayer
from unimixer.blocks.task_experts import PerTask, TaskExperts, hidden_layers
from unimixer.errors import check_choice

POOLINGS = ("mean", "flatten", "attention")


class MeanPooling(nn.Module):
    """The mean of the tokens, ``(B, T, D)`` to ``(B, D)``."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Average."""
        if ops.plain(tokens) or not ops.is_batch_last(tokens):
            return tokens.mean(1)
        return ops.batch_first(tokens.permute(1, 2, 0).mean(0).T)  # whole rows, and so are their gradients


class AttentionPooling(nn.Module):
    r"""The mean of the tokens by learned weights, :math:`r = \sum_t \mathrm{softmax}_t(q \cdot x_t / \sqrt{D})\, x_t`.

    The query q starts at zero, so that pooling starts as the plain mean.

    Source: pooling by one learned query, as in Set Transformer (arXiv:1810.00825), in its lightest form.

    Args:
        token_dim: D.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, D)``

    Example:
        >>> AttentionPooling(2)(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        tensor([[2., 3.]], grad_fn=<SqueezeBackward1>)
    """

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(token_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """Weigh and add."""
        scores = (tokens @ self.query.to(tokens.dtype)) * self.query.shape[0] ** -0.5
        weights = scores.softmax(1).to(tokens.dtype)
        pooled: Tensor = (weights.unsqueeze(1) @ tokens).squeeze(1)
        return pooled


def build_pooling(name: str, token_dim: int) -> nn.Module:
    """Build a pooling of tokens ``(B, T, D)`` by its name in :data:`POOLINGS`."""
    check_choice("pooling", name, POOLINGS)
    if name == "attention":
        return AttentionPooling(token_dim)
    return MeanPooling() if name == "mean" else nn.Flatten(1)


class TaskTowers(nn.Module):
    r"""One small MLP a task on the pooled output, which crosses with itself before.

    .. math:: r_{l+1} = r_0 \odot (U_l V_l^\top r_l + b_l) + r_l, \qquad
              z_k = w_k^\top \phi(\dots \phi(W_k r_L + b_k)) + c_k, \qquad \phi = \mathrm{SiLU}

    The crosses are those of DCN V2 (arXiv:2008.13535) in a rank of a quarter of the width, the same for all tasks. With
    experts, a tower reads their mixture by its gate (:class:`~unimixer.blocks.TaskExperts`) in place of :math:`r_L`.

    Args:
        in_dim: R.
        num_tasks: number of tasks k.
        hidden_dims: widths of the hidden layers of a tower.
        num_crosses: L.
        experts: levels of experts between the pooled output and the towers (default: none).

    Shape:
        - pooled: ``(B, R)``; output: logits ``(B, tasks)``

    Example:
        >>> TaskTowers(8, num_tasks=2, hidden_dims=(4,))(torch.zeros(3, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_dim: int,
        num_tasks: int,
        hidden_dims: Sequence[int],
        num_crosses: int = 0,
        experts: TaskExperts | None = None,
    ) -> None:
        super().__init__()
        dims = [in_dim if experts is None else experts.out_dim, *hidden_dims]
        self.towers = PerTask(nn.Sequential(*hidden_layers(dims), nn.Linear(dims[-1], 1)) for _ in range(num_tasks))
        self.crosses = nn.ModuleList(CrossLayer(in_dim, max(1, in_dim // 4)) for _ in range(num_crosses))
        self.experts = experts

    def forward(self, pooled: Tensor) -> Tensor:
        """Cross, mix experts if there are any, then compute the logit of every task."""
        crossed = pooled
        for cross in self.crosses:
            crossed = cross(pooled, crossed)
        inputs = [crossed] * len(self.towers) if self.experts is None else self.experts(crossed)
        return torch.cat([tower(x) for tower, x in zip(self.towers, inputs, strict=True)], dim=1)
