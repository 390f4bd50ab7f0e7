"""Calls the dense part in training and adds its gradients up: with DistributedDataParallel, or with FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.features.batch import Batch
from unimixer.ranker import TABLES, Ranker, dense_parameters
from unimixer.training.distributed.plan import quietly
from unimixer.training.distributed.sharded_dense import clip, is_sharded, sum_whole
from unimixer.training.process_group import World


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
    :func:`~unimixer.mixing.cached_constraints` only; their buckets travel then, and the reduction ends with them.

    A ranker whose dense parameters :func:`~unimixer.training.distributed.sharded_dense.shard_dense` has cut sends its
    own gradients, each to the process that holds the part, and :meth:`finish` adds up those of what is held whole.
    """

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor], world: World) -> None:
        self.ranker, self.world, self.sharded = ranker, world, is_sharded(ranker)
        self._call: nn.Module = ranker if self.sharded else Scoring(ranker, score)
        if world.size > 1 and not self.sharded:
            self._call = _parallel(self._call, ranker)

    def __call__(self, batch: Batch) -> Tensor:
        """Logits ``(B, tasks)``."""
        logits: Tensor = self._call(batch)
        return logits

    @contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """Inside, forward and backward of a batch end in an exchange of all gradients so far, or in none."""
        if self.sharded:
            self.ranker.set_requires_gradient_sync(wanted)  # type: ignore[operator]
        if wanted or self.sharded or isinstance(self._call, Scoring):
            yield
            return
        with self._call.no_sync():  # type: ignore[operator]
            yield

    def finish(self) -> None:
        """Add up, after the last backward of a step, what no exchange of a batch has."""
        if self.sharded:
            sum_whole(self.ranker)

    def clip(self, largest: float) -> None:
        """Scale the gradients down to a norm over all dense parameters."""
        if self.sharded:
            clip(self.ranker, largest, self.world)
        else:
            torch.nn.utils.clip_grad_norm_(dense_parameters(self.ranker), largest)

    def all_of(self, good: bool) -> bool:
        """Whether all processes found so, where every forward needs all of them; elsewhere whether this one did."""
        return self.world.sums([float(not good)])[0] == 0 if self.sharded else good

    def first_of(self, found: str | None) -> str | None:
        """What the first process found that found something, where every forward needs all; elsewhere this one."""
        return next(filter(None, self.world.gather(found)), None) if self.sharded else found


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
