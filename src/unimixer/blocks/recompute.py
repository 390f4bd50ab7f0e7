"""Activation checkpointing: recompute the blocks of a stack in backward instead of storing their activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from unimixer.blocks.auxiliary import Transient


class Recomputing(nn.Module):
    """Base of stacks that can recompute their blocks in backward: less memory, more time, equal results.

    A subclass passes every block through :meth:`run`. Once :func:`recompute_activations` has switched it on, a forward
    of training keeps what enters a block and what leaves it, and backward computes what was in between, one block at a
    time. Weights, names of the state dict and gradients are those of the plain stack, bit for bit.

    A recomputation leaves what a :class:`~unimixer.blocks.Transient` has stored as it is, so no penalty or count enters
    twice, and draws the dropout masks of its forward. Other side effects of a block would happen twice: batch
    normalisation belongs outside.

    Example:
        >>> class Stack(Recomputing):
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        ...
        ...     def forward(self, x):
        ...         for layer in self.layers:
        ...             x = self.run(layer, x)
        ...         return x
        >>> stack = Stack()
        >>> recompute_activations(stack)
        1
        >>> stack(torch.ones(2, 4)).sum().backward()
    """

    recomputes: bool = False
    """Whether training recomputes; :func:`recompute_activations` sets this and the next."""
    draws: bool = False
    """Whether blocks draw random numbers, which a recomputation has to repeat."""

    def run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Return ``block(*inputs)``; ``block`` is a module or a function of this stack's modules."""
        if not (self.recomputes and self.training and torch.is_grad_enabled()) or torch.compiler.is_exporting():
            return block(*inputs)
        settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": self.draws}
        if not torch.compiler.is_compiling():  # a compiled recomputation runs no Python
            settings["context_fn"] = lambda: (nullcontext(), _untouched(self))
        return checkpoint(block, *inputs, **settings)


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Restore at the end the values that the modules inside have stored for the step."""
    parts = [part for part in module.modules() if isinstance(part, Transient)]
    kept = [(part, name, getattr(part, name)) for part in parts for name in part.transients()]
    try:
        yield
    finally:
        for part, name, value in kept:
            setattr(part, name, value)


def recompute_activations(module: nn.Module, enabled: bool = True) -> int:
    """Switch the recomputation of all blocks inside a module on or off; return how many stacks have such blocks.

    A stack inside a block of another one does not count: it is computed again with that block.
    """
    stacks = list(_outermost(module))
    for stack in stacks:
        stack.recomputes = enabled
        stack.draws = any(isinstance(part, _DropoutNd) for part in stack.modules())
    return len(stacks)


def _outermost(module: nn.Module) -> Iterator[Recomputing]:
    if isinstance(module, Recomputing):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`torch.compile`, for functions that may recompute blocks that store penalties.

    Compiled blocks store theirs in the forward alone, as :class:`Recomputing` sees to without a compiler.
    """
    fast = torch.compile(function)
    only_forward = torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
    result: Callable[..., Any] = only_forward(fast)
    return result
