"""Time per-token FFNs: a loop over tokens, batched products, and the same compiled."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.suite.base import Benchmark, Case, Prepared, Product, Setting, UnavailableError, Work, fixed_gradient
from unimixer.blocks import PerTokenFFN, PerTokenLinear, PerTokenSwiGLU
from unimixer.training.model import compiler

KINDS: dict[str, type[PerTokenFFN] | type[PerTokenSwiGLU]] = {"gelu": PerTokenFFN, "swiglu": PerTokenSwiGLU}


class Looped(nn.Module):
    """Compute the same layer token by token, as its equation reads."""

    def __init__(self, ffn: nn.Module) -> None:
        super().__init__()
        self.ffn = ffn

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply every token's layers, one token after the other."""
        return torch.stack([self._one(token, number) for number, token in enumerate(tokens.unbind(1))], dim=1)

    def _one(self, token: Tensor, number: int) -> Tensor:
        if isinstance(self.ffn, PerTokenFFN):
            hidden = F.gelu(_linear(self.ffn.up, token, number))
        else:
            assert isinstance(self.ffn, PerTokenSwiGLU)
            up, gate = _linear(self.ffn.up_gate, token, number).chunk(2, dim=-1)
            hidden = up * F.silu(gate)
        return _linear(self.ffn.down, hidden, number)


def _linear(layer: PerTokenLinear, token: Tensor, number: int) -> Tensor:
    assert layer.bias is not None
    return token @ layer.weight[number] + layer.bias[number]


def inputs(case: Case, setting: Setting) -> tuple[nn.Module, Tensor]:
    """Make a layer and tokens ``(B, T, D)``."""
    torch.manual_seed(0)
    ffn = KINDS[case["ffn"]](case["T"], case["D"], case["H"]).to(setting.device)
    return ffn, setting.normal(case["batch"], case["T"], case["D"])


def ffn_products(kind: str, tokens: int, batch: int, dim: int, hidden: int) -> tuple[Product, Product]:
    """List the two batched products of a per-token layer; a gate is part of the first."""
    wide = 2 * hidden if kind == "swiglu" else hidden
    return Product(tokens, batch, dim, wide), Product(tokens, batch, hidden, dim)


def work(case: Case) -> Work:
    """Count six FLOPs a weight and sample; input, output and their gradients pass the memory at least once."""
    products = ffn_products(case["ffn"], case["T"], case["batch"], case["D"], case["H"])
    weights = KINDS[case["ffn"]].num_parameters(case["T"], case["D"], case["H"])
    moved = 5 * case["batch"] * case["T"] * case["D"] + 3 * weights
    return Work(flops=6.0 * weights * case["batch"], num_bytes=4.0 * moved, rows=case["batch"], products=products)


def _looped(data: tuple[nn.Module, Tensor]) -> Prepared:
    return trained(Looped(data[0]), data[1])


def trained(module: nn.Module, tokens: Tensor) -> Prepared:
    """Prepare forward and backward of a copy of a module, with gradients of its input and of all parameters.

    Parameters are named by their number, so that modules which wrap each other compare.
    """
    return _prepared(copy.deepcopy(module), tokens, compiled=False)


def compiled(module: nn.Module, tokens: Tensor) -> Prepared:
    """Prepare the same through ``torch.compile`` in one graph.

    Raises:
        UnavailableError: without a C++ compiler on a CPU.
    """
    if tokens.device.type == "cpu" and compiler() is None:
        raise UnavailableError("torch.compile needs a C++ compiler and none was found; install g++")
    return _prepared(copy.deepcopy(module), tokens, compiled=True)


def _prepared(module: nn.Module, tokens: Tensor, *, compiled: bool) -> Prepared:
    call = torch.compile(module, fullgraph=True) if compiled else module
    leaf = tokens.detach().clone().requires_grad_()
    upstream: list[Tensor] = []

    def run() -> Tensor:
        leaf.grad = None
        module.zero_grad(set_to_none=True)
        output: Tensor = call(leaf)
        if not upstream:
            upstream.append(fixed_gradient(output))
        torch.autograd.backward(output, upstream[0])
        return output

    def results() -> dict[str, Tensor]:
        tensors = {"output": run().detach()}
        for number, leaf_or_parameter in enumerate((leaf, *module.parameters())):
            if leaf_or_parameter.grad is not None:
                tensors[f"gradient {number}"] = leaf_or_parameter.grad.clone()
        return tensors

    return Prepared(run, results)


BENCHMARKS = (
    Benchmark(
        name="per-token-ffn",
        measures="a per-token FFN, forward and backward: against T, D, H and the batch",
        inputs=inputs,
        implementations={
            "loop over tokens": _looped,
            "batched products": lambda data: trained(*data),
            "compiled": lambda data: compiled(*data),
        },
        cases=(
            Case.of(ffn="gelu", T=16, D=64, H=256, batch=2048),
            Case.of(ffn="swiglu", T=16, D=64, H=256, batch=2048),
            Case.of(small=False, ffn="swiglu", T=8, D=64, H=256, batch=2048),
            Case.of(small=False, ffn="swiglu", T=32, D=64, H=256, batch=2048),
            Case.of(small=False, ffn="swiglu", T=16, D=128, H=256, batch=2048),
            Case.of(small=False, ffn="swiglu", T=16, D=256, H=512, batch=2048),
            Case.of(small=False, ffn="swiglu", T=16, D=64, H=256, batch=512),
            Case.of(small=False, ffn="swiglu", T=16, D=64, H=256, batch=8192),
        ),
        work=work,
        tolerance=1e-3,
    ),
)
