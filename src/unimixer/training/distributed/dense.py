"""The dense part on several processes: DistributedDataParallel holds it whole, FSDP2 shards it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unimixer.blocks.cross_attention import EventFFN
from unimixer.features.batch import Batch
from unimixer.mixing import Constrained
from unimixer.ranker import TABLES, Ranker, dense_parameters, table_parameters
from unimixer.training.process_group import ProcessGroup, quietly
from unimixer.training.sharded_tensors import is_sharded, local_part, whole
from unimixer.training.strategy import DenseForward

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

SMALLEST_SHARE = 0.1
"""A layer with a smaller share of the largest layer's parameters is gathered with the parameters outside of layers."""


# ---- every process holds all dense parameters ----


class Scoring(nn.Module):
    """Scores a batch with the ranker's embedding and its compiled dense part, as one module for DDP."""

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor]) -> None:
        super().__init__()
        self.ranker, self._score = ranker, score

    def forward(self, batch: Batch) -> Tensor:
        return self._score(*self.ranker.embed(batch))


class DDPForward(DenseForward):
    """Sums the gradients of a ranker whose dense parameters every process holds whole.

    Gradients are summed and not averaged, because the loss is divided by the weight of the whole batch already. A
    bucket is sent while backward still computes. Raw matrices of constrained mixings get their gradient only at the end
    of :func:`~unimixer.mixing.cached_constraints`; their buckets are sent then, and complete the reduction.
    """

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor]) -> None:
        super().__init__(ranker, score)
        self._parallel = _parallel(Scoring(ranker, score))

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the logits ``(B, tasks)``."""
        logits: Tensor = self._parallel(batch)
        return logits

    @contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """Let forward and backward of a batch end in an exchange of all gradients so far, or in none."""
        if wanted:
            yield
            return
        with self._parallel.no_sync():  # type: ignore[operator]
            yield


def _parallel(scoring: nn.Module) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    tables = [name for name, _ in scoring.named_parameters() if name.startswith(f"ranker.{TABLES}")]
    tables += [name for name, _ in scoring.named_buffers() if name.startswith(f"ranker.{TABLES}")]
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(scoring, tables)
    with quietly():
        parallel = DistributedDataParallel(scoring, broadcast_buffers=False)
    # a lambda, because DistributedDataParallel compares annotations, and those of this file are strings
    parallel.register_comm_hook(None, lambda _, bucket: _sum(bucket))
    return parallel


def _sum(bucket: Any) -> torch.futures.Future[Tensor]:
    """Sum a bucket of gradients over the processes."""
    import torch.distributed as dist

    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


# ---- every process holds a part of the dense parameters ----


class FSDPForward(DenseForward):
    """Sums the gradients of a ranker that :func:`shard_dense` has sharded, each on the process that holds the part.

    Every forward pass needs all processes, so all of them agree on whether a loss is finite.
    """

    def __init__(self, ranker: Ranker, score: Callable[..., Tensor], processes: ProcessGroup) -> None:
        super().__init__(ranker, score)
        self.processes = processes

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the logits ``(B, tasks)``."""
        logits: Tensor = self.ranker(batch)
        return logits

    @contextmanager
    def exchange(self, wanted: bool) -> Iterator[None]:
        """Let forward and backward of a batch end in an exchange of all gradients so far, or in none."""
        self.ranker.set_requires_gradient_sync(wanted)  # type: ignore[operator]
        yield

    def finish(self) -> None:
        """Sum, in one exchange, the gradients of the parameters that every process holds whole."""
        import torch.distributed as dist

        gradients = [p.grad for p in whole_parameters(self.ranker) if p.grad is not None]
        if not gradients:
            return
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joined)
        for gradient, total in zip(gradients, torch.split(joined, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    @torch.no_grad()
    def clip(self, largest: float) -> None:
        """Scale the gradients down to a norm over all parameters of all processes, as ``clip_grad_norm_`` does."""
        gradients = [p.grad for p in dense_parameters(self.ranker) if p.grad is not None]
        parts = [local_part(gradient) for gradient in gradients if is_sharded(gradient)]
        others = [gradient for gradient in gradients if not is_sharded(gradient)]
        norms = [torch.nn.utils.get_total_norm(some).double() if some else torch.zeros(()) for some in (parts, others)]
        total = (self.processes.total(norms[0].square()) + norms[1].square().to(norms[0].device)).sqrt()
        factor = (largest / (total + 1e-6)).clamp(max=1.0).float()
        for gradient in (*parts, *others):
            gradient.mul_(factor.to(gradient.device))

    def all_finite(self, finite: bool) -> bool:
        """Tell whether the loss is finite on all processes."""
        return self.processes.sums([float(not finite)])[0] == 0

    def first_name(self, name: str | None) -> str | None:
        """Return the first name that any process has found."""
        return next(filter(None, self.processes.gather(name)), None)


def shard_dense(model: Ranker, *, processes: ProcessGroup, device: torch.device) -> None:
    """Shard the dense parameters of a model with FSDP2; its tables do not change.

    Each layer of the backbone is gathered by itself, and everything outside of layers together. Every process holds the
    parameters of constrained mixings whole: their constraint couples a whole matrix, so that Sinkhorn of a part would
    be wrong; it is solved once a step outside of any forward; and they are a small share of a wide model. Parameters of
    one number cannot be sharded and are whole too. :meth:`FSDPForward.finish` sums the gradients of whole parameters.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not name.startswith(TABLES):
            dist.broadcast(tensor.detach(), 0)
    ignored = {*table_parameters(model), *whole_parameters(model)}
    mesh, placement = init_device_mesh(device.type, (processes.size,)), _placement(processes.size)
    for part in [*layers(model.backbone), model]:
        sharded: FSDPModule = fully_shard(part, mesh=mesh, ignored_params=ignored, shard_placement_fn=placement)
        sharded.set_gradient_divide_factor(1.0)  # the loss is divided by the weight of the whole batch already
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other sum with a factor


def whole_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Collect the dense parameters that every process holds whole."""
    mixings = [part for part in model.modules() if isinstance(part, Constrained)]
    raw = [parameter for part in mixings for parameter in part.parameters(recurse=False)]
    return [*raw, *(p for name, p in model.named_parameters() if not p.dim() and not name.startswith(TABLES))]


def layers(backbone: nn.Module) -> list[nn.Module]:
    """Collect the modules of a backbone that are gathered by themselves, inner ones first.

    They are the members of its outermost lists. The network on events in an attention is one as well, because the
    stream calls it and not the attention.
    """
    ignored = {*whole_parameters(backbone)}

    def weight(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p not in ignored)

    weights = {member: weight(member) for members in _outermost_lists(backbone) for member in members}
    smallest = max(1, SMALLEST_SHARE * max(weights.values(), default=1))
    inner = [module for module in backbone.modules() if isinstance(module, EventFFN)]
    return [*inner, *(member for member, count in weights.items() if count >= smallest and member not in inner)]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList | nn.Sequential]:
    if isinstance(module, nn.ModuleList | nn.Sequential):
        yield module
        return
    for child in module.children():
        yield from _outermost_lists(child)


def _placement(processes: int) -> Callable[[nn.Parameter], Any]:
    """Choose the axis along which a parameter is sharded: one that divides evenly, else the first.

    Weights of tokens are (T, in, out); with more processes than tokens some processes would get nothing of the first
    axis.
    """
    from torch.distributed.tensor import Shard

    def place(parameter: nn.Parameter) -> Shard:
        even = [axis for axis, length in enumerate(parameter.shape) if length % processes == 0]
        return Shard(next(iter(even), 0))

    return place


# ---- checkpoints ----


def gather_full(tensors: Iterable[tuple[str, Tensor]], processes: ProcessGroup) -> dict[str, Tensor]:
    """Gather sharded tensors; all processes take part, and rank 0 alone gets the result."""
    full = {}
    for name, tensor in tensors:
        gathered = whole(tensor)
        if processes.is_rank_zero:
            full[name] = gathered.cpu() if gathered is not tensor else tensor
    return full
