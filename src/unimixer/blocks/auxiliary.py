"""Pass penalties, measurements and intermediate tokens from modules to the training loss and the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Transient(nn.Module):
    """Base of modules with plain attributes that live for one training step: never saved, copied or exported.

    A subclass names them in ``transient`` and gives each the class-level default None. Its forward stores tensors,
    with their graph, where :attr:`records` holds and None elsewhere; whoever takes the step collects and clears them
    right after the forward. A forward writes and does not read them, so torch.compile needs no graph break. A step
    that collects nothing keeps the tensors of its last forward alive until the next one.

    Example:
        >>> class Keeps(Transient):
        ...     transient = ("seen",)
        ...     seen: Tensor | None = None
        ...
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         self.seen = x.mean() if self.records else None
        ...         return x
        >>> module = Keeps()
        >>> _ = module(torch.ones(2))
        >>> module.seen, module.eval()(torch.ones(2)), module.seen
        (tensor(1.), tensor([1., 1.]), None)
    """

    transient: ClassVar[tuple[str, ...]] = ()

    @property
    def records(self) -> bool:
        """Whether a forward belongs to training: in training mode, with gradients, and outside of an export."""
        return self.training and torch.is_grad_enabled() and not torch.compiler.is_exporting()

    def transients(self) -> set[str]:
        """Return the names of all such attributes, inherited ones included."""
        return {name for cls in type(self).__mro__ for name in vars(cls).get("transient", ())}

    def __getstate__(self) -> dict[str, Any]:
        names = self.transients()
        return {name: value for name, value in self.__dict__.items() if name not in names}


class Auxiliary(Transient):
    r"""Base of modules that add a penalty to the loss or numbers to the log.

    In a forward of training a subclass sets ``penalty``, a scalar that is a mean over the rows of the batch and already
    has its coefficient, and may set ``counts``, a detached vector that adds up over batches (and processes). The step
    then calls, in this order, :func:`pop_penalties` after every forward, :func:`after_step` once the optimizer moved,
    and :func:`pop_statistics` where it logs.

    Example:
        >>> class Spread(Auxiliary):
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         self.penalty = 0.1 * x.var(0).mean() if self.records else None
        ...         return x
        >>> module = Spread()
        >>> _ = module(torch.tensor([[0.0], [2.0]]))
        >>> pop_penalties(module)
        tensor(0.2000)
    """

    transient: ClassVar[tuple[str, ...]] = ("penalty", "counts", "totals", "statistics")
    penalty: Tensor | None = None
    counts: Tensor | None = None
    totals: Tensor | None = None
    """Counts of all batches of the step so far."""
    statistics: dict[str, Tensor] | None = None
    """Numbers of the last step by their names in the log."""

    def after_step(self, totals: Tensor | None = None) -> None:
        """Adapt to the step that was taken; drop its counts.

        Args:
            totals: what the counts of this module stand for where others join in (default: its own).
        """
        self.totals = None

    def pools_with(self, other: Auxiliary) -> bool:
        """Whether two modules adapt by their counts together."""
        return self is other


def _parts(model: nn.Module) -> Iterator[Auxiliary]:
    return (module for module in model.modules() if isinstance(module, Auxiliary))


def pop_penalties(model: nn.Module) -> Tensor | None:
    """Collect and clear the penalties of the last forward: their sum, or None where there is none.

    The sum is a mean over the rows of one batch; a step over several batches weighs each by its share of the rows.
    """
    penalties: list[Tensor] = []
    for part in _parts(model):
        if part.penalty is not None:
            penalties.append(part.penalty)
        if part.counts is not None:
            part.totals = part.counts if part.totals is None else part.totals + part.counts
        part.penalty = part.counts = None
    return torch.stack(penalties).sum() if penalties else None


def forget_counts(model: nn.Module) -> None:
    """Drop the counts of the last forward, as those of a row that pads an empty batch."""
    for part in _parts(model):
        if part.counts is not None:
            part.counts = torch.zeros_like(part.counts)


@torch.no_grad()
def after_step(model: nn.Module, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
    """Let every module adapt to the step that was taken.

    Args:
        model: whose modules to tell.
        reduce: sums a tensor over processes; the one place where several of them must agree.
    """
    parts = [part for part in _parts(model) if part.totals is not None]
    totals = [part.totals if reduce is None else reduce(part.totals) for part in parts if part.totals is not None]
    for part in parts:
        peers = [total for peer, total in zip(parts, totals, strict=True) if part.pools_with(peer)]
        part.after_step(torch.stack(peers).sum(0))


def pop_statistics(model: nn.Module) -> dict[str, float]:
    """Collect and clear the numbers of the last step, each a mean over the modules that have it.

    On a GPU this waits for the step, so it belongs where a step is logged and nowhere else.
    """
    numbers: dict[str, list[Tensor]] = {}
    for part in _parts(model):
        for name, value in (part.statistics or {}).items():
            numbers.setdefault(name, []).append(value)
        part.statistics = None
    return {name: float(torch.stack(values).mean()) for name, values in numbers.items()}
