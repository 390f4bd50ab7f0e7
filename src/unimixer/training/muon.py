"""Muon: momentum whose matrices are made orthogonal before they move the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from unimixer.blocks import ExpertGate, PerTokenLinear
from unimixer.blocks.moe.experts import PerTokenExperts, PerTokenRouter
from unimixer.errors import UnimixerError
from unimixer.mixing import BlockLinear, SharedLinear
from unimixer.ranker import Ranker
from unimixer.training.sharded_tensors import shard_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of AdamW's updates, which Muon's updates match (arXiv:2502.16982, section 2.2)."""


class Muon(torch.optim.Optimizer):
    r"""Gradient descent with momentum in which every matrix of the update becomes a nearly orthogonal one.

    .. math:: M \leftarrow \mu M + (1 - \mu) G, \quad U = \mu M + (1 - \mu) G, \quad
              W \leftarrow (1 - \eta \lambda) W - 0.2\, \eta \sqrt{\max(in, out)}\; \mathrm{Orthogonal}(U)

    Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024), with Nesterov's momentum. The
    factor :math:`0.2 \sqrt{\max(in, out)}` gives an update the root mean square of one of AdamW, so that both take the
    same rate (arXiv:2502.16982, section 2.2). A weight of more than two axes is a batch of matrices ``(..., in, out)``,
    each of which becomes orthogonal by itself. ``torch.optim.Muon`` takes single matrices alone, in bfloat16; this one
    computes in the precision of the weight.

    Of sharded weights, every process gathers the update, makes it orthogonal and takes its own part.

    Args:
        params: weights of at least two axes.
        lr: the rate.
        weight_decay: decoupled weight decay.
        momentum: of the gradient.
    """

    def __init__(
        self, params: Iterable[object], *, lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = MOMENTUM
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights that have a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = whole(weight.grad.lerp(momentum, group["momentum"]))
                scale = RMS * max(weight.shape[-2:]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(shard_like(orthogonal(update), weight), alpha=-group["lr"] * scale)
        return loss


def orthogonal(matrices: Tensor) -> Tensor:
    r"""Bring the singular values of every matrix near one: five Newton-Schulz iterations of a quintic.

    .. math:: X_0 = U / \lVert U \rVert_F, \qquad X \leftarrow 3.4445\, X - 4.775\, A X + 2.0315\, A^2 X, \quad
              A = X X^\top

    The coefficients are those of the source of :class:`Muon`: singular values end between about 0.7 and 1.2, which is
    close enough and quick. The iteration runs on the short side. A matrix of zeros stays.

    Shape:
        - matrices: ``(..., in, out)``; output: the same

    Example:
        >>> values = torch.linalg.svdvals(orthogonal(torch.tensor([[3.0, 0.0], [0.0, 1.0]])))
        >>> [round(value, 1) for value in values.tolist()]
        [1.1, 0.8]
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        step: Tensor = (b * gram + c * gram @ gram) @ x
        x = a * x + step
    return x.mT if tall else x


def matrix_parameters(model: Ranker) -> list[nn.Parameter]:
    """Return the weights that Muon moves, in the order of the model's parameters.

    They are the weights of linear layers, one for all tokens or one a token, and of experts: every slice ``(in, out)``
    is a map from one vector to another. AdamW moves all other dense parameters: biases, gains of norms, gates, routers
    of mixtures, raw matrices of mixings, learned queries and positions, the whole embedding with its sequence encoders,
    and layers of one output, such as the last one of every tower.

    Raises:
        UnimixerError: if there are none.
    """
    embedding = {*model.embedding.modules()}
    routers = {
        linear
        for router in model.modules()
        if isinstance(router, PerTokenRouter | ExpertGate)
        for linear in router.modules()
    }
    weights = {
        part.down if isinstance(part, PerTokenExperts) else part.weight
        for part in model.modules()
        if isinstance(part, nn.Linear | SharedLinear | BlockLinear | PerTokenLinear | PerTokenExperts)
        and part not in embedding | routers
    }
    matrices = [p for p in model.parameters() if p in weights and min(p.shape[-2:]) > 1]
    if not matrices:
        raise UnimixerError("optimizer.dense=muon: this model has no linear layers; use adamw")
    return matrices
