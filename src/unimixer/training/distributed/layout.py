"""The layout of sharded tables: their fields, names and widths, and the plan that assigns their parts to ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError, unknown
from unimixer.features.batch import Batch
from unimixer.features.embedding import EmbeddingTables
from unimixer.features.spec import FeatureSpec
from unimixer.training.config import DistributedConfig, OptimizerConfig
from unimixer.training.process_group import ProcessGroup

if TYPE_CHECKING:
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.types import ShardingPlan

SHARDINGS = ("table_wise", "row_wise", "column_wise")
NARROWEST = 4
"""Columns of the narrowest shard: fbgemm reads four numbers at a time."""


@dataclass(frozen=True)
class Column:
    """A field, its table, and the column of its ids in a batch."""

    field: str
    table: str
    number: int
    group: str | None
    """The group of a sequence field; None for an id field, which has one id per row."""

    def ids(self, batch: Batch) -> Tensor:
        """Return the field's ids."""
        return (
            batch.sparse_ids[:, self.number]
            if self.group is None
            else batch.sequence_values[self.group][:, self.number]
        )

    def lengths(self, batch: Batch) -> Tensor:
        """Return the number of ids of every row."""
        if self.group is None:
            return torch.ones(len(batch), dtype=torch.long, device=batch.sparse_ids.device)
        return batch.sequence_offsets[self.group].diff()


def columns_of(spec: FeatureSpec) -> list[Column]:
    """List the id fields, then the sequence fields."""
    ids = [Column(f.name, f.table, number, None) for number, f in enumerate(spec.ids)]
    groups = spec.groups.items()
    return ids + [Column(f.name, f.table, number, group) for group, fs in groups for number, f in enumerate(fs)]


@dataclass(frozen=True)
class TableLayout:
    """The shapes and fields of sharded tables."""

    rows: Mapping[str, int]
    width: Mapping[str, int]
    aliases: Mapping[str, str]
    """TorchRec's name of every table, and of its only key: names there must be valid names of modules."""
    columns: Mapping[int, Sequence[Column]]
    """The fields that look up rows, by the width of their tables."""
    rule: str
    """The optimizer of the tables."""
    device: torch.device

    @classmethod
    def of(cls, tables: EmbeddingTables, spec: FeatureSpec, rule: str, device: torch.device) -> TableLayout:
        """Lay out the tables of a single process."""
        aliases = {name: f"table_{number}" for number, name in enumerate(tables.num_embeddings)}
        columns: dict[int, list[Column]] = {}
        for column in columns_of(spec):
            columns.setdefault(tables.width[column.table], []).append(column)
        return cls(tables.num_embeddings, tables.width, aliases, dict(sorted(columns.items())), rule, device)

    def split(self, vectors: Mapping[str, Tensor], batches: Sequence[Batch]) -> dict[str, list[Tensor]]:
        """Split the vectors of every field by batch."""
        columns = [column for group in self.columns.values() for column in group]
        return {c.field: list(torch.split(vectors[c.field], [len(c.ids(b)) for b in batches])) for c in columns}


def distinct_rows(columns: Sequence[Column], batches: Sequence[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Find the rows of every table that some batches read, each once, and where among them those of a field are.

    Shape:
        - rows by table: ``(U,)``, ascending; places by field: ``(V,)``, of all batches one after the other
    """
    rows: dict[str, Tensor] = {}
    places: dict[str, Tensor] = {}
    by_table: dict[str, list[Column]] = {}
    for column in columns:
        by_table.setdefault(column.table, []).append(column)
    for table, own in by_table.items():
        read = [torch.cat([column.ids(batch) for batch in batches]).long() for column in own]
        rows[table], inverse = torch.unique(torch.cat(read), return_inverse=True)
        of_fields = inverse.split([len(ids) for ids in read])
        places |= {column.field: part for column, part in zip(own, of_fields, strict=True)}
    return rows, places


# ---- the plan ----


def allowed_shardings(
    config: DistributedConfig, optimizer: OptimizerConfig, tables: Mapping[str, int]
) -> dict[str, list[str]]:
    """Return the ways in which each table may be sharded.

    Args:
        config: the wishes of the recipe.
        optimizer: row-wise Adagrad has one number per row, so its tables cannot be sharded by columns.
        tables: tables by name.

    Raises:
        UnimixerError: for an unknown table, or columns of a table whose optimizer needs whole rows.
    """
    for name in config.tables:
        if name not in tables:
            raise unknown("table in distributed.tables", name, tables)
    allowed: dict[str, list[str]] = {}
    for name in tables:
        wish = config.tables.get(name, config.sharding)
        whole_rows = optimizer.sparse == "rowwise_adagrad"
        if wish == "column_wise" and whole_rows:
            raise UnimixerError(
                f"table {name!r}: optimizer.sparse=rowwise_adagrad has one number per row and does not go with "
                "column_wise; choose table_wise or row_wise"
            )
        allowed[name] = [s for s in SHARDINGS if not (whole_rows and s == "column_wise")] if wish == "auto" else [wish]
    return allowed


def make_plan(
    module: nn.Module,
    sharder: EmbeddingCollectionSharder,
    allowed: Mapping[str, list[str]],
    layout: TableLayout,
    processes: ProcessGroup,
    batch_size: int,
) -> ShardingPlan:
    """Let TorchRec's planner assign every table to ranks; rank 0 plans for all.

    Raises:
        UnimixerError: if two column shards of a table that allows only column shards would get to one rank.
    """
    import torch.distributed as dist
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation

    constraints = {
        layout.aliases[name]: ParameterConstraints(
            sharding_types=types,
            compute_kernels=["fused"],
            min_partition=max(NARROWEST, -(-layout.width[name] // processes.size)),
        )
        for name, types in allowed.items()
    }
    device = layout.device
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=processes.size, compute_device=device.type, **_memory(device)),
        constraints=constraints,
        batch_size=batch_size,
        storage_reservation=FixedPercentageStorageReservation(0.15),
        debug=False,
    )
    group = dist.group.WORLD
    assert group is not None
    plan: ShardingPlan = planner.collective_plan(module, [sharder], group)
    doubled = _tables_twice_on_a_rank(plan)
    if not doubled:
        return plan
    # a file has one part of a table per rank, so such a table is sharded by rows or not at all
    rest = {
        name: [s for s in types if s != "column_wise" or layout.aliases[name] not in doubled]
        for name, types in allowed.items()
    }
    if not all(rest.values()):
        raise UnimixerError("the planner puts two column shards of a table on one rank; choose row_wise for it")
    return make_plan(module, sharder, rest, layout, processes, batch_size)


def _tables_twice_on_a_rank(plan: ShardingPlan) -> set[str]:
    parts = [(name, cut.ranks or []) for module in plan.plan.values() for name, cut in module.items()]
    return {name for name, ranks in parts if len(set(ranks)) < len(ranks)}


def _memory(device: torch.device) -> dict[str, Any]:
    """Tell the planner the memory of a process, in bytes."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local
    memory: dict[str, Any] = {"local_world_size": local, "ddr_cap": host}
    if device.type == "cuda":
        memory["hbm_cap"] = torch.cuda.get_device_properties(device).total_memory
    return memory
