"""Deep Interest Network: the interest of a user in a candidate, by an activation unit without softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unimixer.errors import check_choice, check_positive
from unimixer.features.sequence import TargetAttention

ACTIVATIONS = ("prelu", "dice")


class Dice(nn.Module):
    r"""A PReLU whose rectified point adapts to the data.

    .. math::
        f(s) = p(s)\, s + (1 - p(s))\, \alpha s, \qquad
        p(s) = \sigma\!\left(\frac{s - E[s]}{\sqrt{Var[s] + \epsilon}}\right)

    Deep Interest Network (arXiv:1706.06978), Eq. (6): in training E and Var are those of the batch, in evaluation their
    moving averages, ``running_mean`` and ``running_var``. A batch of less than two rows takes the averages as well. The
    slope :math:`\alpha` is one number a unit and starts at zero, :math:`\epsilon` is ``eps``.

    Shape:
        - s and output: ``(..., num_units)``
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_units: int, *, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.alpha = nn.Parameter(torch.zeros(num_units))
        self.register_buffer("running_mean", torch.zeros(num_units))
        self.register_buffer("running_var", torch.ones(num_units))

    def forward(self, s: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training and s.shape[:-1].numel() > 1:
            var, mean = torch.var_mean(s.float().flatten(0, -2), dim=0, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        gate = ((s - mean) * (var + self.eps).rsqrt()).sigmoid()
        return gate * s + (1 - gate) * self.alpha * s


class DIN(TargetAttention):
    r"""Sum the events, each weighted by the activation unit; weights are not normalized, so they keep the intensity.

    .. math:: v_U(A) = \sum_{j=1}^{H} a(e_j, v_A)\, e_j, \qquad a(e, v) = \mathrm{MLP}([v,\ e,\ v - e,\ v \odot e])

    Deep Interest Network (arXiv:1706.06978), Eq. (3) and Figure 2; the inputs of the MLP are those of the published
    code. The paper compares whole events with the candidate; here :math:`e` inside the unit has the columns
    ``matched``.

    Args:
        width: E, of an event :math:`e_j`.
        matched: the columns of an event that have a counterpart in the candidate :math:`v_A`.
        max_length: H at most; the sum does not depend on it.
        hidden_dims: widths of the hidden layers of the MLP.
        activation: ``prelu`` or ``dice``, see :class:`Dice`.

    Shape:
        - events: ``(V, E)``, :math:`e_j` of all rows; offsets: ``(B + 1,)``; target: ``(B, Q)``, :math:`v_A`
        - output: ``(B, E)``, :math:`v_U`, zero for an empty sequence

    Example:
        >>> encoder = DIN(4, [0, 1], max_length=3)
        >>> encoder(torch.zeros(3, 4), torch.tensor([0, 3, 3]), torch.zeros(2, 2)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        width: int,
        matched: list[int],
        *,
        max_length: int,
        hidden_dims: Sequence[int] = (36,),
        activation: str = "prelu",
    ) -> None:
        super().__init__(width, matched, max_length=max_length)
        check_choice("activation", activation, ACTIVATIONS)
        self.scale = 1.0
        layers: list[nn.Module] = []
        in_dim = 4 * len(matched)
        for out_dim in hidden_dims:
            check_positive(hidden_dims=out_dim)
            layers += [nn.Linear(in_dim, out_dim), nn.PReLU() if activation == "prelu" else Dice(out_dim)]
            in_dim = out_dim
        self.score = nn.Sequential(*layers, nn.Linear(in_dim, 1))
