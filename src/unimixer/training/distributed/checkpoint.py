"""Checkpoints and best weights of a run on several processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.io import flush_folder, replace_folder
from unimixer.ranker import Ranker
from unimixer.training.checkpoint import (
    check_weights,
    load_state,
    load_tensors,
    optimizer_tensors,
    prune,
    restore_optimizer,
    save_tensors,
    tensors_of,
)
from unimixer.training.distributed.consolidate import BEST, consolidate
from unimixer.training.distributed.setup import take_rows
from unimixer.training.distributed.sharded_dense import local, part_of, put_together, settle
from unimixer.training.distributed.storage import DESCRIPTION, describe, read_tables, write_tables
from unimixer.training.distributed.tables import ShardedTables
from unimixer.training.eviction import Eviction
from unimixer.training.optimizers import dense_groups
from unimixer.training.process_group import World
from unimixer.training.run import RunFolder


class Keeper:
    """Writes and reads a model whose tables are cut over processes.

    Dense weights and their optimizer stand in the files of one machine and are written by rank 0, which puts them
    together where processes have parts of them; tables stand beside them, see
    :mod:`~unimixer.training.distributed.storage`. A folder gets its name when all processes have written theirs.
    """

    def __init__(
        self,
        run: RunFolder,
        model: Ranker,
        tables: ShardedTables,
        dense: torch.optim.Optimizer,
        world: World,
        eviction: Eviction | None = None,
    ) -> None:
        self.run, self.model, self.tables, self.dense, self.world = run, model, tables, dense, world
        self.eviction = eviction

    def save_checkpoint(self, folder: Path, state: Mapping[str, Any], *, keep: int) -> None:
        """Write ``step-N`` and remove all but the newest ``keep`` checkpoints."""
        if self.eviction is not None:
            self.eviction.collect()

        def rest(temporary: Path) -> None:
            (temporary / "state.json").write_text(json.dumps(dict(state), indent=1) + "\n", encoding="utf-8")

        self._write(folder / f"step-{state['step']:09d}", rest, optimizer=True)
        self.world.lead(lambda: prune(folder, keep))

    def load_checkpoint(self, checkpoint: Path) -> dict[str, Any]:
        """Restore weights and optimizers; return the loop's state.

        Raises:
            UnimixerError: if a file is missing or damaged, or is that of another model.
        """
        if not (checkpoint / DESCRIPTION).exists():
            raise UnimixerError(
                f"{checkpoint} was written by one process alone; continue it with one process, without torchrun"
            )
        self._read(checkpoint, optimizer=True)
        tensors = load_tensors(checkpoint / "optimizer.safetensors")
        self._restore(tensors_of(tensors, "dense"))
        if self.eviction is not None:
            restore_optimizer(self.eviction, tensors_of(tensors, "eviction"))
        return load_state(checkpoint / "state.json")

    def save_best(self) -> None:
        """Keep the weights as they are now."""
        self._write(self.run.folder / BEST, lambda temporary: None, optimizer=False)

    def load_best(self) -> None:
        """Go back to the weights that validated best."""
        if (self.run.folder / BEST).exists():
            self._read(self.run.folder / BEST, optimizer=False)
            return
        tensors = load_tensors(self.run.best_weights)  # they have been put together already
        load_dense(self.model, tensors)
        take_rows(self.tables, tensors)

    def finish(self) -> None:
        """Put the best weights together in the file that a run on one machine has them in."""
        self.world.lead(lambda: self._finish())

    def _finish(self) -> None:
        if (self.run.folder / BEST).exists():
            consolidate(self.run.folder / BEST, self.run.best_weights)
            shutil.rmtree(self.run.folder / BEST)

    def _write(self, target: Path, rest: Any, *, optimizer: bool) -> None:
        temporary = Path(self.world.lead(lambda: _make(target)))
        write_tables(temporary, self.tables, optimizer=optimizer)
        self._save(temporary / "model.safetensors", dense_state(self.model).items())
        if optimizer:
            self._save(temporary / "optimizer.safetensors", self._states())

        def end() -> None:
            (temporary / DESCRIPTION).write_text(describe(self.tables), encoding="utf-8")
            rest(temporary)
            flush_folder(temporary)
            replace_folder(temporary, target)

        self.world.lead(end)

    def _save(self, path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Let rank 0 write tensors that all processes have, or have parts of."""
        whole = put_together(tensors, self.world)
        self.world.lead(lambda: save_tensors(path, whole))

    def _parameters(self) -> list[torch.nn.Parameter]:
        """Dense parameters in the order in which one process numbers them."""
        return [p for group in dense_groups(self.model, self.run.recipe.optimizer) for p in group["params"]]

    def _states(self) -> Iterator[tuple[str, Tensor]]:
        for number, parameter in enumerate(self._parameters()):
            if parameter in self.dense.state:
                for key, value in self.dense.state[parameter].items():
                    yield f"dense.{number}.{key}", torch.as_tensor(value)
        if self.eviction is not None:
            yield from ((f"eviction.{key}", value) for key, value in optimizer_tensors(self.eviction).items())

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Give every dense parameter its state, of which this process takes its part."""
        parameters, order = self._parameters(), [p for group in self.dense.param_groups for p in group["params"]]
        places = {parameter: place for place, parameter in enumerate(order)}
        found = {}
        for name, tensor in tensors.items():
            number, key = name.split(".", 1)
            parameter = parameters[int(number)]
            found[f"{places[parameter]}.{key}"] = part_of(tensor, parameter)
        restore_optimizer(self.dense, found)

    def _read(self, folder: Path, *, optimizer: bool) -> None:
        path = folder / "model.safetensors"
        tensors = load_tensors(path)
        check_weights(path, tensors, dense_state(self.model))
        read_tables(folder, self.tables, optimizer=optimizer)
        load_dense(self.model, tensors)


def dense_state(model: Ranker) -> dict[str, Tensor]:
    """The weights of the dense part, which all processes have alike or have parts of."""
    settle(model)
    parts = {name: child for name, child in model.named_children() if name != "embedding"}
    found = {f"{name}.{key}": value for name, child in parts.items() for key, value in child.state_dict().items()}
    inner = {name: child for name, child in model.embedding.named_children() if name != "tables"}
    found |= {f"embedding.{n}.{key}": v for n, child in inner.items() for key, v in child.state_dict().items()}
    return found


@torch.no_grad()
def load_dense(model: Ranker, tensors: Mapping[str, Tensor]) -> None:
    """Copy the dense part, or this process's part of it."""
    for name, own in dense_state(model).items():
        local(own).copy_(local(part_of(tensors[name], own)))


def _make(target: Path) -> str:
    """A temporary folder beside the target; a name that is left behind is removed when the run goes on."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return str(temporary)
