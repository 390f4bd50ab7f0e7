"""Tensors of which every process holds a part (DTensor); every function takes ordinary tensors as well."""

from __future__ import annotations

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is sharded over the processes."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor on every process, all of which take part; return any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor that all processes have whole in the way of ``like``; return it as it is if that is whole."""
    if not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def reshard(model: nn.Module) -> None:
    """Free what a forward without backward has gathered, so that parameters are parts again."""
    for part in model.modules():
        if hasattr(part, "reshard"):
            part.reshard()  # type: ignore[operator]
