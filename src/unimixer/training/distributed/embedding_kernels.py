"""TorchRec's modules: collections of tables cut by a plan, and the optimizer that moves their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unimixer.training.config import OptimizerConfig, Recipe
from unimixer.training.distributed.plan import make_plan, wishes
from unimixer.training.distributed.rows import RowsOfRank
from unimixer.training.optimizers import RowSparseAdam

if TYPE_CHECKING:
    from unimixer.training.distributed.tables import ShardedTables

ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def build_collections(tables: ShardedTables, recipe: Recipe) -> nn.ModuleDict:
    """One sharded ``EmbeddingCollection`` a width; every rank makes memory for its own part alone."""
    import torch.distributed as dist
    from torchrec import EmbeddingCollection, EmbeddingConfig
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.types import ShardingEnv

    set_gradient_division(False)  # the loss is divided by the weight of the whole batch already
    whole = nn.ModuleDict()
    for width, columns in tables.columns.items():
        used = {name: [c.key for c in columns if c.table == name] for name in tables.num_embeddings}
        configs = [
            EmbeddingConfig(
                name=tables.aliases[name],
                num_embeddings=tables.num_embeddings[name],
                embedding_dim=width,
                feature_names=keys,
                init_fn=_leave,
            )
            for name, keys in used.items()
            if keys
        ]
        whole[str(width)] = EmbeddingCollection(tables=configs, device=torch.device("meta"))
    sharder = EmbeddingCollectionSharder(fused_params=fused_parameters(recipe.optimizer, tables.device))
    allowed = wishes(recipe.distributed, recipe.optimizer, tables.num_embeddings)
    plan = make_plan(
        whole,
        sharder,
        {tables.aliases[name]: types for name, types in allowed.items()},
        {tables.aliases[name]: width for name, width in tables.width.items()},
        world=tables.world,
        device=tables.device,
        batch_size=recipe.training.batch_size,
    )
    group = dist.group.WORLD
    assert group is not None
    environment = ShardingEnv.from_process_group(group)
    found = nn.ModuleDict()
    for name, collection in whole.items():
        found[name] = sharder.shard(collection, plan.plan[name], environment, tables.device)
    return found


def fused_parameters(config: OptimizerConfig, device: torch.device) -> dict[str, Any]:
    """The rule that fbgemm fuses with the backward pass."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    rate = {"learning_rate": config.sparse_lr}
    if config.sparse == "rowwise_adagrad":
        return {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "eps": 1e-8, **rate}
    if config.sparse == "sgd" or device.type == "cpu":  # Adam on a CPU is RowsOfRank's, and this moves nothing
        return {"optimizer": EmbOptimType.EXACT_SGD, **rate}
    return {"optimizer": EmbOptimType.ADAM, **ADAM, **rate}


class FusedRule(torch.optim.Optimizer):
    """fbgemm's fused rule as the step knows an optimizer: it has rates, and its rows move in the backward pass."""

    def __init__(self, collections: nn.ModuleDict, lr: float) -> None:
        self._fused: list[Any] = [collection.fused_optimizer for collection in collections.values()]
        self._engines = [kernel.emb_module for _, _, kernel in kernels(collections)]
        # an optimizer wants a parameter: this one stands for rows that others hold
        super().__init__([nn.Parameter(torch.empty(0))], {"lr": lr})

    def at_step(self, step: int) -> None:
        """Tell Adam how many steps came before; forwards without a step, as in evaluations, have counted on."""
        for engine in self._engines:
            if hasattr(engine, "iter") and hasattr(engine, "iter_cpu"):
                engine.iter.fill_(step)
                engine.iter_cpu.fill_(step)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Hand on the rate; there are no gradients to clear."""
        for engine in self._engines:
            engine.set_learning_rate(self.param_groups[0]["lr"])

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """The rows have moved already."""

    def states(self) -> dict[str, dict[str, Any]]:
        """Sharded tensors of the state by TorchRec's name of the table and name of the state."""
        found: dict[str, dict[str, Any]] = {}
        for fused in self._fused:
            for key, values in fused.state_dict()["state"].items():
                alias = key.removeprefix("embeddings.").removesuffix(".weight")
                found[alias] = {name.rpartition(".")[2]: value for name, value in values.items()}
        return found


class RankAdam(RowSparseAdam):
    """The row-sparse Adam of one machine on the rows of a rank."""

    def __init__(self, collections: nn.ModuleDict, lr: float) -> None:
        self.rows: list[RowsOfRank] = []
        for lookup, place, kernel in list(kernels(collections)):
            lookup._emb_modules[place] = RowsOfRank(kernel)
            self.rows.append(lookup._emb_modules[place])
        # a rank may own no rows at all
        super().__init__([r.weight for r in self.rows] or [nn.Parameter(torch.empty(0, 1))], lr=lr)
        for row in self.rows:
            self.begin(row.weight)

    def at_step(self, step: int) -> None:
        """Tell how many steps came before."""
        for row in self.rows:
            self.state[row.weight]["step"].fill_(step)


def kernels(collections: nn.ModuleDict) -> Iterator[tuple[Any, int, Any]]:
    """TorchRec's kernels on this rank, with the lookup and the place in it that each stands in."""
    for collection in collections.values():
        for lookup in collection._lookups:  # type: ignore[union-attr]
            for place, kernel in enumerate(lookup._emb_modules):
                yield lookup, place, kernel


def build_optimizer(tables: ShardedTables, config: OptimizerConfig) -> FusedRule | RankAdam:
    """The optimizer of the tables."""
    if config.sparse == "adam" and tables.device.type == "cpu":
        return RankAdam(tables.collections, config.sparse_lr)
    return FusedRule(tables.collections, config.sparse_lr)


def _leave(_tensor: torch.Tensor) -> None:
    """Rows are drawn afterwards, by their number in the whole table."""
