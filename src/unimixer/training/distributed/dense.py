"""Dense parameters that all processes have alike: DistributedDataParallel adds their gradients up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.features.batch import Batch
from unimixer.ranker import TABLES, Ranker
from unimixer.training.distributed.plan import quietly
from unimixer.training.distributed.world import World


class Scoring(nn.Module):
    """A ranker as a step calls it: a batch to logits, with the dense part as it was compiled."""

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor]) -> None:
        super().__init__()
        self.ranker, self._score = ranker, score

    def forward(self, batch: Batch) -> Tensor:
        return self._score(*self.ranker.embed(batch))


class DenseParts:
    """Calls a ranker in training; where several processes train it, backward adds up their gradients.

    Gradients are summed and not averaged, because the loss is divided by the weight of the whole batch already. A
    bucket travels while backward still computes. Raw matrices of constrained mixings get their gradient at the end of
    :func:`~unimixer.mixing.constrained_once` only; their buckets travel then, and the reduction ends with them.
    """

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor], world: World) -> None:
        self._call: nn.Module = Scoring(ranker, score)
        if world.size > 1:
            self._call = _parallel(self._call, ranker)

    def __call__(self, batch: Batch) -> Tensor:
        """Logits ``(B, tasks)``."""
        logits: Tensor = self._call(batch)
        return logits

    @contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """Inside, forward and backward of a batch end in an exchange of all gradients so far, or in none."""
        if wanted or isinstance(self._call, Scoring):
            yield
            return
        with self._call.no_sync():  # type: ignore[operator]
            yield


def _parallel(scoring: nn.Module, ranker: Ranker) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    tables = [name for name, _ in scoring.named_parameters() if name.startswith(f"ranker.{TABLES}")]
    tables += [name for name, _ in scoring.named_buffers() if name.startswith(f"ranker.{TABLES}")]
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(scoring, tables)
    with quietly():
        parallel = DistributedDataParallel(scoring, broadcast_buffers=False)
    # a lambda, because DistributedDataParallel compares annotations, and those of this file are texts
    parallel.register_comm_hook(None, lambda _, bucket: _sum(bucket))
    return parallel


def _sum(bucket: Any) -> torch.futures.Future[Tensor]:
    """Add a bucket of gradients up over the processes."""
    import torch.distributed as dist

    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future
