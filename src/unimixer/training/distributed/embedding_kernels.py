"""TorchRec's modules: sharded collections of tables, and the optimizers that update their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.training.config import OptimizerConfig, Recipe
from unimixer.training.distributed.layout import TableLayout, allowed_shardings, make_plan
from unimixer.training.optimizers import RowSparseAdam
from unimixer.training.process_group import ProcessGroup

ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
_FUSED_STATES = {
    "adam": {"momentum1": "exp_avg", "momentum2": "exp_avg_sq", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"},
    "rowwise_adagrad": {"momentum1": "sum", "sum": "sum"},
    "sgd": {},
}
"""Names of fbgemm's states in the optimizers of a single process."""


def build_collections(layout: TableLayout, recipe: Recipe, processes: ProcessGroup) -> nn.ModuleDict:
    """Build one sharded ``EmbeddingCollection`` per width; every rank allocates only its own part."""
    import torch.distributed as dist
    from torchrec import EmbeddingCollection, EmbeddingConfig
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.types import ShardingEnv

    set_gradient_division(False)  # the loss is divided by the weight of the whole batch already
    whole = nn.ModuleDict()
    for width, columns in layout.columns.items():
        read = {column.table for column in columns}
        configs = [
            EmbeddingConfig(
                name=layout.aliases[name],
                num_embeddings=layout.rows[name],
                embedding_dim=width,
                feature_names=[layout.aliases[name]],
                init_fn=_skip_initialization,
            )
            for name in layout.rows
            if name in read
        ]
        whole[str(width)] = EmbeddingCollection(tables=configs, device=torch.device("meta"))
    sharder = EmbeddingCollectionSharder(fused_params=fused_parameters(recipe.optimizer, layout.device))
    allowed = allowed_shardings(recipe.distributed, recipe.optimizer, layout.rows)
    plan = make_plan(whole, sharder, allowed, layout, processes, recipe.training.batch_size)
    group = dist.group.WORLD
    assert group is not None
    environment = ShardingEnv.from_process_group(group)
    sharded = nn.ModuleDict()
    for name, collection in whole.items():
        sharded[name] = sharder.shard(collection, plan.plan[name], environment, layout.device)
    return sharded


def fused_parameters(config: OptimizerConfig, device: torch.device) -> dict[str, Any]:
    """Choose the rule that fbgemm fuses with the backward pass."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    rate = {"learning_rate": config.embedding_lr}
    if config.sparse == "rowwise_adagrad":
        return {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "eps": 1e-8, **rate}
    if config.sparse == "sgd" or device.type == "cpu":  # LocalAdam updates the rows on a CPU, and this rule none
        return {"optimizer": EmbOptimType.EXACT_SGD, **rate}
    return {"optimizer": EmbOptimType.ADAM, **ADAM, **rate}


def build_optimizer(collections: nn.ModuleDict, config: OptimizerConfig, device: torch.device) -> FusedRule | LocalAdam:
    """Build the optimizer of the tables."""
    if config.sparse == "adam" and device.type == "cpu":
        return LocalAdam(collections, config.embedding_lr)
    return FusedRule(collections, config)


class FusedRule(torch.optim.Optimizer):
    """fbgemm's fused rule with the interface of an optimizer: the rows are updated in the backward pass."""

    def __init__(self, collections: nn.ModuleDict, config: OptimizerConfig) -> None:
        self._names = _FUSED_STATES[config.sparse]
        self._fused: list[Any] = [collection.fused_optimizer for collection in collections.values()]
        self._kernels = [kernel.emb_module for _, _, kernel in kernels(collections)]
        # an optimizer needs a parameter: this one stands for the rows inside the kernels
        super().__init__([nn.Parameter(torch.empty(0))], {"lr": config.embedding_lr})

    def at_step(self, step: int) -> None:
        """Tell Adam the number of steps before; it also counts forward passes of evaluations."""
        for kernel in self._kernels:
            if hasattr(kernel, "iter") and hasattr(kernel, "iter_cpu"):
                kernel.iter.fill_(step)
                kernel.iter_cpu.fill_(step)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Pass on the learning rate; there are no gradients to clear."""
        for kernel in self._kernels:
            kernel.set_learning_rate(self.param_groups[0]["lr"])

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing: the backward pass has updated the rows."""

    def states(self, weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the states of tables as sharded tensors, by alias of the table and name of the state."""
        states: dict[str, dict[str, Any]] = {}
        for fused in self._fused:
            for key, values in fused.state_dict()["state"].items():
                alias = key.removeprefix("embeddings.").removesuffix(".weight")
                named = {name.rpartition(".")[2]: value for name, value in values.items()}
                states[alias] = {self._names[name]: value for name, value in named.items() if name in self._names}
        return states


class LocalAdam(RowSparseAdam):
    """The row-sparse Adam of a single process, on the rows of this rank.

    fbgemm fuses Adam with the backward pass only on CUDA. On a CPU this optimizer updates the rows: the planner, the
    exchange of ids and vectors and the state dict remain TorchRec's.
    """

    def __init__(self, collections: nn.ModuleDict, lr: float) -> None:
        self.shards: list[LocalRows] = []
        for lookup, position, kernel in list(kernels(collections)):
            lookup._emb_modules[position] = LocalRows(kernel)
            self.shards.append(lookup._emb_modules[position])
        # a rank may own no rows at all
        super().__init__([shard.weight for shard in self.shards] or [nn.Parameter(torch.empty(0, 1))], lr=lr)
        for shard in self.shards:
            self.begin(shard.weight)

    def at_step(self, step: int) -> None:
        """Set the number of steps before this one."""
        for shard in self.shards:
            self.state[shard.weight]["step"].fill_(step)

    def states(self, weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the states of tables as tensors sharded like their weights, by alias and name of the state."""
        return {
            alias: {state: self._sharded(alias, weight, state) for state in ("exp_avg", "exp_avg_sq")}
            for alias, weight in weights.items()
        }

    def _sharded(self, alias: str, weight: Any, state: str) -> Any:
        from torch.distributed._shard.sharded_tensor.api import ShardedTensor
        from torch.distributed._shard.sharded_tensor.shard import Shard

        shards = []
        for rows in self.shards:
            for number, table in enumerate(rows.config.embedding_tables):
                if table.name == alias:
                    start, count = rows.range_of(number)
                    shards.append(Shard(self.state[rows.weight][state][start : start + count], table.local_metadata))
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, weight.metadata(), process_group=weight._process_group
        )


class LocalRows(nn.Module):
    """Looks up a rank's part of some tables with row-sparse gradients, in the memory of TorchRec's kernel.

    Args:
        kernel: TorchRec's kernel of tables of one width, which this module replaces.

    Shape:
        - features: ids ``(V,)`` of the kernel's tables, one feature after the other; output: ``(V, width)``
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.kernel = kernel
        width, engine = kernel.config.embedding_tables[0].local_cols, kernel.emb_module
        # shared memory: TorchRec's state dict shows what the optimizer writes here
        self.weight = nn.Parameter(engine.weights_host.detach().view(-1, width))
        self.starts = [int(offset) // width for offset in engine.weights_offsets.tolist()]  # by feature

    @property
    def config(self) -> Any:
        """TorchRec's description of the tables."""
        return self.kernel.config

    def forward(self, features: Any) -> Tensor:
        ids, counts = features.values(), features.length_per_key()
        shift = torch.repeat_interleave(torch.tensor(self.starts[: len(counts)]), torch.tensor(counts))
        return F.embedding(ids.long() + shift, self.weight, sparse=True)

    def flush(self) -> None:
        """Do nothing: TorchRec flushes caches before it reads a state, and there is no cache."""

    purge = flush

    def range_of(self, table: int) -> tuple[int, int]:
        """Return the first row and the number of rows of a table in ``weight``."""
        tables = self.config.embedding_tables
        return sum(t.local_rows for t in tables[:table]), tables[table].local_rows


def kernels(collections: nn.ModuleDict) -> Iterator[tuple[Any, int, Any]]:
    """Yield TorchRec's kernels on this rank, each with its lookup and its position there."""
    for collection in collections.values():
        for lookup in collection._lookups:  # type: ignore[union-attr]
            for position, kernel in enumerate(lookup._emb_modules):
                yield lookup, position, kernel


def _skip_initialization(_tensor: torch.Tensor) -> None:
    """Leave rows as they are; :meth:`ShardedTables.draw` fills them by their number in the whole table."""
