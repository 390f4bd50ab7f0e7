"""Shares a model among several processes: tables by TorchRec, the dense part by DDP or FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from unimixer.ranker import TABLES, Ranker
from unimixer.training.checkpoint import Checkpointer
from unimixer.training.config import Recipe
from unimixer.training.distributed.checkpoint import ShardedCheckpointer
from unimixer.training.distributed.dense import DDPForward, FSDPForward, shard_dense
from unimixer.training.distributed.tables import shard_tables
from unimixer.training.process_group import ProcessGroup
from unimixer.training.run import RunFolder
from unimixer.training.strategy import DenseForward, Strategy
from unimixer.training.warm_start import WarmStart


class ShardedStrategy(Strategy):
    """Trains a model on the processes that torchrun has started."""

    table_device = "meta"

    def __init__(self, processes: ProcessGroup) -> None:
        self.processes = processes

    def place(self, model: Ranker, recipe: Recipe, start: WarmStart | None, device: torch.device) -> None:
        """Shard a model whose tables are on ``meta``, with the weights of a warm start if there is one.

        A process holds all tables of the source for a moment, and all dense parameters until they are sharded.
        """
        if start is not None:
            rest = {name: tensor for name, tensor in start.state(model).items() if not name.startswith(TABLES)}
            model.load_state_dict(rest, strict=False)
        tables = shard_tables(model, recipe, processes=self.processes, device=device)
        if start is not None:
            for table, (first, column), shard in tables.local_shards():
                start.fill(table, shard, first, column)
        if recipe.distributed.dense == "fsdp" and self.processes.size > 1:
            shard_dense(model, processes=self.processes, device=device)

    def forward(self, model: Ranker, score: Callable[..., Tensor]) -> DenseForward:
        """Make the callable that computes logits and sums gradients over the processes."""
        if self.processes.size == 1:
            return DenseForward(model, score)
        if hasattr(model, "set_requires_gradient_sync"):  # FSDP2 has sharded it
            return FSDPForward(model, score, self.processes)
        return DDPForward(model, score)

    def checkpointer(
        self, run: RunFolder, model: Ranker, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> Checkpointer:
        """Make the object that writes and reads sharded checkpoints."""
        return ShardedCheckpointer(run, model, optimizers, self.processes)
