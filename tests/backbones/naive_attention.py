"""Attention as a textbook writes it, in loops over rows, heads and tokens: what the attention backbones must equal."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unimixer.backbones import Backbone


def own(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Token t times matrix t."""
    rows = [x[:, t] @ weight[t] + (0 if bias is None else bias[t]) for t in range(x.shape[1])]
    return torch.stack(rows, 1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, heads: int, scale: float, modulation: Tensor | None = None
) -> Tensor:
    """Every head of every row: a softmax over keys, then a sum of values; heads side by side."""
    a, c = query.shape[-1] // heads, value.shape[-1] // heads
    rows = []
    for b in range(query.shape[0]):
        out = []
        for i in range(query.shape[1]):
            pieces = []
            for h in range(heads):
                q = query[b, i, h * a : (h + 1) * a]
                logits = [(q * key[b, j, h * a : (h + 1) * a]).sum() * scale for j in range(key.shape[1])]
                if modulation is not None:
                    numbers = modulation[h if modulation.shape[0] > 1 else 0, i]
                    logits = [logit * numbers[j] for j, logit in enumerate(logits)]
                weights = torch.stack([logit.exp() for logit in logits])
                weights = weights / weights.sum()
                pieces.append(sum(weights[j] * value[b, j, h * c : (h + 1) * c] for j in range(key.shape[1])))
            out.append(torch.cat(pieces))
        rows.append(torch.stack(out))
    return torch.stack(rows)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * norm.get_parameter("weight") + norm.get_parameter("bias")


def own_ffn(x: Tensor, ffn: nn.Module) -> Tensor:
    """GELU, own weights for every token."""
    up, down = ffn.get_submodule("up"), ffn.get_submodule("down")
    hidden = gelu(own(x, up.get_parameter("weight"), up.get_parameter("bias")))
    return own(hidden, down.get_parameter("weight"), down.get_parameter("bias"))


def own_swiglu(x: Tensor, ffn: nn.Module) -> Tensor:
    """SwiGLU, own weights for every token, up and gate in one weight."""
    both, down = ffn.get_submodule("up_gate"), ffn.get_submodule("down")
    up, gate = own(x, both.get_parameter("weight"), both.get_parameter("bias")).chunk(2, -1)
    return own(up * silu(gate), down.get_parameter("weight"), down.get_parameter("bias"))


def post(x: Tensor, stack: nn.Module, functions: list[Callable[[Tensor], Tensor]]) -> Tensor:
    """A norm after every addition."""
    for index, function in enumerate(functions):
        x = layer_norm(x + function(x), stack.get_submodule(f"norms.{index}"))
    return x


def pre(x: Tensor, stack: nn.Module, functions: list[Callable[[Tensor], Tensor]]) -> Tensor:
    """A norm before every sublayer, and one at the end."""
    for index, function in enumerate(functions):
        x = x + function(layer_norm(x, stack.get_submodule(f"norms.{index}")))
    return layer_norm(x, stack.get_submodule("final_norm"))


def scrambled(backbone: Backbone) -> Backbone:
    """In float64, with every parameter off its start, so that none of them goes unseen."""
    backbone = backbone.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return backbone


def assert_equal_with_gradients(backbone: Backbone, naive: Callable[[Tensor], Tensor], batch: int = 2) -> None:
    """Outputs, and gradients of every parameter and of the input."""
    generator = torch.Generator().manual_seed(2)
    shape = (batch, backbone.num_tokens, backbone.token_dim)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    output, expected = backbone(x), naive(x)
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=1e-8)
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((output * weight).sum(), [x, *parameters])
    wanted = torch.autograd.grad((expected * weight).sum(), [x, *parameters])
    for name, one, other in zip(("tokens", *names), found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
