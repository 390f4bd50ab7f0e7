"""Where every table goes: TorchRec's planner under the recipe's wishes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unimixer.errors import UnimixerError, unknown
from unimixer.training.config import DistributedConfig, OptimizerConfig
from unimixer.training.process_group import World

if TYPE_CHECKING:
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.types import ShardingPlan

SHARDINGS = ("table_wise", "row_wise", "column_wise")
NARROWEST = 4
"""Columns of the narrowest shard: fbgemm reads four numbers at a time."""


def wishes(config: DistributedConfig, optimizer: OptimizerConfig, tables: Mapping[str, int]) -> dict[str, list[str]]:
    """The ways in which each table may be cut.

    Args:
        config: the recipe's.
        optimizer: row-wise Adagrad keeps one number a row, which a table cut by columns has not.
        tables: tables by name.

    Raises:
        UnimixerError: for an unknown table, or columns of a table whose optimizer needs whole rows.
    """
    for name in config.tables:
        if name not in tables:
            raise unknown("table in distributed.tables", name, tables)
    found: dict[str, list[str]] = {}
    for name in tables:
        wish = config.tables.get(name, config.sharding)
        whole_rows = optimizer.sparse == "rowwise_adagrad"
        if wish == "column_wise" and whole_rows:
            raise UnimixerError(
                f"table {name!r}: optimizer.sparse=rowwise_adagrad has one number a row and does not go with "
                "column_wise; choose table_wise or row_wise"
            )
        found[name] = [s for s in SHARDINGS if not (whole_rows and s == "column_wise")] if wish == "auto" else [wish]
    return found


def make_plan(
    module: nn.Module,
    sharder: EmbeddingCollectionSharder,
    allowed: Mapping[str, list[str]],
    widths: Mapping[str, int],
    *,
    world: World,
    device: torch.device,
    batch_size: int,
) -> ShardingPlan:
    """Let rank 0 plan and all agree to its plan; names of tables are those of the module.

    Raises:
        UnimixerError: if columns of a table that must be cut by columns would fall on one rank twice.
    """
    import torch.distributed as dist
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation

    constraints = {
        name: ParameterConstraints(
            sharding_types=types,
            compute_kernels=["fused"],
            min_partition=max(NARROWEST, -(-widths[name] // world.size)),
        )
        for name, types in allowed.items()
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world.size, compute_device=device.type, **_memory(device)),
        constraints=constraints,
        batch_size=batch_size,
        storage_reservation=FixedPercentageStorageReservation(0.15),
        debug=False,
    )
    group = dist.group.WORLD
    assert group is not None
    plan: ShardingPlan = planner.collective_plan(module, [sharder], group)
    twice = _twice(plan)
    if not twice:
        return plan
    # a file has one part of a table a rank, so such a table is cut by rows or not at all
    rest = {n: [s for s in types if s != "column_wise" or n not in twice] for n, types in allowed.items()}
    if not all(rest.values()):
        raise UnimixerError("the planner puts two column shards of a table on one rank; choose row_wise for it")
    return make_plan(module, sharder, rest, widths, world=world, device=device, batch_size=batch_size)


def _twice(plan: ShardingPlan) -> set[str]:
    """Tables of which a rank would get more than one part."""
    parts = [(name, cut.ranks or []) for module in plan.plan.values() for name, cut in module.items()]
    return {name for name, ranks in parts if len(set(ranks)) < len(ranks)}


def _memory(device: torch.device) -> dict[str, Any]:
    """What the planner must know of the memory of a process, in bytes."""
    import os

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local
    found: dict[str, Any] = {"local_world_size": local, "ddr_cap": host}
    if device.type == "cuda":
        found["hbm_cap"] = torch.cuda.get_device_properties(device).total_memory
    return found


@contextmanager
def quietly() -> Iterator[None]:
    """Keep TorchRec's notices for its own developers away from the person who watches."""
    loggers = [logging.getLogger(name) for name in ("torchrec", "fbgemm_gpu", "torch.distributed", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
