"""Dense parameters cut over the processes by FSDP2: each holds a part, and gathers a layer while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unimixer.blocks.cross_attention import EventFFN
from unimixer.mixing import Constrained
from unimixer.ranker import TABLES, Ranker, dense_parameters, table_parameters
from unimixer.training.process_group import World

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

LEAST = 0.1
"""A layer with a smaller share of the largest layer's parameters is gathered together with what is outside layers."""


def shard_dense(model: Ranker, *, world: World, device: torch.device) -> None:
    """Cut the dense parameters of a model; its tables stay as they are.

    What is gathered together is a layer of the backbone, and everything outside of layers. The parameters of
    constrained mixings are held whole by every process: their constraint joins all of a matrix, so that Sinkhorn of a
    part would be wrong, it is solved once a step outside of any forward, and they are a small share of a wide model.
    So are parameters of one number, which cannot be cut. :func:`sum_whole` adds their gradients up.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not name.startswith(TABLES):
            dist.broadcast(tensor.detach(), 0)
    left = {*table_parameters(model), *held_whole(model)}
    mesh = init_device_mesh(device.type, (world.size,))
    for part in [*layers(model.backbone), model]:
        cut: FSDPModule = fully_shard(part, mesh=mesh, ignored_params=left, shard_placement_fn=_placement(world.size))
        cut.set_gradient_divide_factor(1.0)  # the loss is divided by the weight of the whole batch already
        cut.set_force_sum_reduction_for_comms(True)  # gloo has no other sum with a factor


def held_whole(model: nn.Module) -> list[nn.Parameter]:
    """Dense parameters that every process holds whole."""
    mixings = [part for part in model.modules() if isinstance(part, Constrained)]
    found = [parameter for part in mixings for parameter in part.parameters(recurse=False)]
    return [*found, *(p for name, p in model.named_parameters() if not p.dim() and not name.startswith(TABLES))]


def layers(backbone: nn.Module) -> list[nn.Module]:
    """Modules of a backbone that are gathered by themselves, inner ones first.

    They are the members of its outermost lists. The network on events in an attention is called by the stream and not
    by the attention, so it is one as well.
    """
    whole = {*held_whole(backbone)}

    def weight(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p not in whole)

    found = {member: weight(member) for members in _outermost_lists(backbone) for member in members}
    least = max(1, LEAST * max(found.values(), default=1))
    inner = [module for module in backbone.modules() if isinstance(module, EventFFN)]
    return [*inner, *(member for member, count in found.items() if count >= least and member not in inner)]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList | nn.Sequential]:
    if isinstance(module, nn.ModuleList | nn.Sequential):
        yield module
        return
    for child in module.children():
        yield from _outermost_lists(child)


def _placement(processes: int) -> Callable[[nn.Parameter], Any]:
    """Along which axis a parameter is cut: one that falls into equal parts, else the first, where parts may differ.

    Weights of tokens are (T, in, out), and of more processes than tokens some would get nothing of the first axis.
    """
    from torch.distributed.tensor import Shard

    def place(parameter: nn.Parameter) -> Shard:
        even = [axis for axis, length in enumerate(parameter.shape) if length % processes == 0]
        return Shard(next(iter(even), 0))

    return place


def is_sharded(model: nn.Module) -> bool:
    """Whether the dense parameters of a model are cut."""
    return hasattr(model, "set_requires_gradient_sync")


def settle(model: nn.Module) -> None:
    """Let go of what a forward without backward has gathered, so that parameters are the parts again."""
    if is_sharded(model):
        for part in model.modules():
            if is_sharded(part):
                part.reshard()  # type: ignore[operator]


def sum_whole(model: Ranker) -> None:
    """Add up, in one exchange, the gradients of what every process holds whole."""
    import torch.distributed as dist

    gradients = [p.grad for p in held_whole(model) if p.grad is not None]
    if not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    for gradient, total in zip(gradients, torch.split(together, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


@torch.no_grad()
def clip(model: Ranker, largest: float, world: World) -> None:
    """Scale the gradients down to a norm over all parameters of all processes, as ``clip_grad_norm_`` does."""
    gradients = [p.grad for p in dense_parameters(model) if p.grad is not None]
    parts = [local(gradient) for gradient in gradients if is_part(gradient)]
    whole = [gradient for gradient in gradients if not is_part(gradient)]
    norms = [torch.nn.utils.get_total_norm(some).double() if some else torch.zeros(()) for some in (parts, whole)]
    total = (world.total(norms[0].square()) + norms[1].square().to(norms[0].device)).sqrt()
    factor = (largest / (total + 1e-6)).clamp(max=1.0).float()
    for gradient in (*parts, *whole):
        gradient.mul_(factor.to(gradient.device))


# ---- parts and wholes ----


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is cut over the processes."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory; the tensor itself where it is not cut."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def put_together(tensors: Iterable[tuple[str, Tensor]], world: World) -> dict[str, Tensor]:
    """Tensors by name as one process has them, on rank 0; the others help and get nothing of what is cut."""
    found = {}
    for name, tensor in tensors:
        whole = tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]
        if world.leader:
            found[name] = whole.cpu() if whole is not tensor else tensor
    return found


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a tensor that all of them have whole, cut as ``like`` is; as it is, where that is."""
    if not is_part(like) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(like.device), mesh, placements, src_data_rank=None)


def apart(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of an optimizer, each with parts or with wholes alone: one update takes tensors of one kind."""
    found = []
    for group in groups:
        kinds = [[p for p in group["params"] if is_part(p) is kind] for kind in (True, False)]
        found += [{**group, "params": parameters} for parameters in kinds if parameters]
    return found or [dict(group) for group in groups]
