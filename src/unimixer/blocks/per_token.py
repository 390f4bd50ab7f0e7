"""Layers with their own weights for every token, held as (T, in, out)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import check_positive, check_shape


def _slices(*shape: int, fan_in: int) -> nn.Parameter:
    """Uniform in +-1/sqrt(fan_in) of ONE slice; initialisers read a wrong fan-in off a stacked tensor."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class PerTokenLinear(nn.Module):
    r"""Map token t by its own linear layer, :math:`y_t = x_t W_t + b_t`.

    Every slice starts like ``nn.Linear``, uniform in :math:`\pm 1 / \sqrt{in}`.

    RankMixer (arXiv:2507.15551), the layers of "per-token FFN".

    Args:
        num_tokens: T.
        in_dim: width of the tokens.
        out_dim: width of the output.
        bias: whether there is a bias b.
        batch_last: lay the result out as :func:`unimixer.ops.batch_last` does, for layers that gain by it.

    Shape:
        - tokens: ``(B, T, in)``; output: ``(B, T, out)``

    Example:
        >>> PerTokenLinear(num_tokens=4, in_dim=6, out_dim=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    def __init__(
        self, num_tokens: int, in_dim: int, out_dim: int, *, bias: bool = True, batch_last: bool = False
    ) -> None:
        super().__init__()
        self.batch_last = batch_last
        check_positive(num_tokens=num_tokens, in_dim=in_dim, out_dim=out_dim)
        self.weight = _slices(num_tokens, in_dim, out_dim, fan_in=in_dim)
        self.bias = _slices(num_tokens, out_dim, fan_in=in_dim) if bias else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's map."""
        check_shape("tokens", tokens, (None, *self.weight.shape[:2]))
        linear = ops.per_token_linear_last if self.batch_last else ops.per_token_linear
        return linear(tokens, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return "num_tokens={}, in_dim={}, out_dim={}".format(*self.weight.shape)


class PerTokenFFN(nn.Module):
    r"""Apply two layers with GELU, with weights per token: :math:`\mathrm{GELU}(x_t W_1^t + b_1^t) W_2^t + b_2^t`.

    RankMixer (arXiv:2507.15551), "per-token FFN". ``bias=False`` drops :math:`b_1` and :math:`b_2`.

    Args:
        num_tokens: T.
        token_dim: D.
        hidden_dim: width of the hidden layer.
        bias: whether there are biases.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> PerTokenFFN(num_tokens=4, token_dim=6, hidden_dim=24)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, hidden_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.up = PerTokenLinear(num_tokens, token_dim, hidden_dim, bias=bias)
        self.down = PerTokenLinear(num_tokens, hidden_dim, token_dim, bias=bias)

    @staticmethod
    def num_parameters(num_tokens: int, token_dim: int, hidden_dim: int, *, bias: bool = True) -> int:
        r"""Return the parameters: :math:`T (2 D H + H + D)`, without biases :math:`T \cdot 2 D H`."""
        return num_tokens * (2 * token_dim * hidden_dim + (hidden_dim + token_dim if bias else 0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's two layers."""
        check_shape("tokens", tokens, (None, *self.up.weight.shape[:2]))
        return ops.per_token_ffn(tokens, self.up.weight, self.up.bias, self.down.weight, self.down.bias)

    def normed_sum(self, tokens: Tensor, norm: ops.Norm) -> Tensor:
        """The norm of the tokens plus :meth:`forward` of them."""
        check_shape("tokens", tokens, (None, *self.up.weight.shape[:2]))
        weights = self.up.weight, self.up.bias, self.down.weight, self.down.bias
        return ops.normed_ffn(tokens, *weights, norm)


class PerTokenSwiGLU(nn.Module):
    r"""Apply a gated layer with weights per token.

    .. math:: p(o_i) = W_{down}^i \left( (W_{up}^i o_i + b_{up}^i) \odot
              \mathrm{Swish}(W_{gate}^i o_i + b_{gate}^i) \right) + b_{down}^i

    arXiv:2604.00590, "per-token SwiGLU". Up and gate are one fused weight, up first. ``bias=False`` drops all biases,
    as TokenMixer-Large (arXiv:2602.06563) does.

    Args:
        num_tokens: T.
        token_dim: D.
        hidden_dim: width of the hidden layer.
        bias: whether there are biases.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> PerTokenSwiGLU(num_tokens=4, token_dim=6, hidden_dim=12)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, hidden_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.up_gate = PerTokenLinear(num_tokens, token_dim, 2 * hidden_dim, bias=bias)
        self.down = PerTokenLinear(num_tokens, hidden_dim, token_dim, bias=bias)

    @staticmethod
    def num_parameters(num_tokens: int, token_dim: int, hidden_dim: int, *, bias: bool = True) -> int:
        r"""Return the parameters: :math:`T (3 D H + 2 H + D)`, without biases :math:`T \cdot 3 D H`."""
        return num_tokens * (3 * token_dim * hidden_dim + (2 * hidden_dim + token_dim if bias else 0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's gated layer."""
        check_shape("tokens", tokens, (None, *self.up_gate.weight.shape[:2]))
        return ops.per_token_ffn(tokens, self.up_gate.weight, self.up_gate.bias, self.down.weight, self.down.bias)

    def normed_sum(self, tokens: Tensor, norm: ops.Norm) -> Tensor:
        """The norm of the tokens plus :meth:`forward` of them."""
        check_shape("tokens", tokens, (None, *self.up_gate.weight.shape[:2]))
        weights = self.up_gate.weight, self.up_gate.bias, self.down.weight, self.down.bias
        return ops.normed_ffn(tokens, *weights, norm)
