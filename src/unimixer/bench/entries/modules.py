"""Modules under test: forward and backward of a copy, eager or compiled."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unimixer.bench.base import Prepared, UnavailableError, fixed_gradient
from unimixer.training.model import compiler


def trained(module: nn.Module, tokens: Tensor) -> Prepared:
    """Forward and backward of a copy of a module, with gradients of its input and of all parameters.

    Parameters are named by their number, so that modules which wrap each other compare.
    """
    return _prepared(copy.deepcopy(module), tokens, compiled=False)


def compiled(module: nn.Module, tokens: Tensor) -> Prepared:
    """The same through ``torch.compile`` in one graph.

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
        found = {"output": run().detach()}
        for number, leaf_or_parameter in enumerate((leaf, *module.parameters())):
            if leaf_or_parameter.grad is not None:
                found[f"gradient {number}"] = leaf_or_parameter.grad.clone()
        return found

    return Prepared(run, results)
