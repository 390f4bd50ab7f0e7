"""Checkpoints and best weights of a run on several processes.

Tables are written by torch.distributed.checkpoint to safetensors files that any number of ranks with any plan can read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.io import flush_folder, replace_folder
from unimixer.ranker import Ranker
from unimixer.training.checkpoint import START, Checkpointer, write_state
from unimixer.training.consolidate import (
    TABLES_DESCRIPTION,
    TABLES_FOLDER,
    consolidate_best,
    is_sharded_checkpoint,
    read_tables_description,
)
from unimixer.training.distributed.dense import gather_full
from unimixer.training.distributed.tables import ShardedTables
from unimixer.training.eviction import Eviction
from unimixer.training.optimizers import dense_groups
from unimixer.training.process_group import ProcessGroup, quietly
from unimixer.training.run import RunFolder
from unimixer.training.sharded_tensors import local_part, reshard, shard_like
from unimixer.training.tensor_files import (
    check_weights,
    load_state,
    load_tensors,
    optimizer_tensors,
    prune,
    restore_optimizer,
    save_tensors,
    select_tensors,
)


class ShardedCheckpointer(Checkpointer):
    """Writes and reads a model whose tables are sharded.

    Rank 0 gathers the dense weights and their optimizer and writes them into the files of a single process. The tables
    are in a folder beside them. A checkpoint gets its name when all processes have written their parts.

    Args:
        run: the run.
        model: its model.
        optimizers: its optimizers by name.
        processes: the processes of the run.
    """

    def __init__(
        self,
        run: RunFolder,
        model: Ranker,
        optimizers: Mapping[str, torch.optim.Optimizer],
        processes: ProcessGroup,
    ) -> None:
        super().__init__(run, model, optimizers)
        self.ranker, self.processes = model, processes
        self.dense = {name: one for name, one in optimizers.items() if name not in ("sparse", "eviction")}
        tables: Any = model.embedding.tables
        self.tables: ShardedTables = tables
        eviction = optimizers.get("eviction")
        self.eviction = eviction if isinstance(eviction, Eviction) else None

    def save_checkpoint(self, state: Mapping[str, Any], *, keep: int) -> None:
        """Write ``step-N`` and remove all but the newest ``keep`` checkpoints."""
        if self.eviction is not None:
            self.eviction.collect()
        target = self.run.checkpoints / f"step-{state['step']:09d}"
        self._write(target, lambda temporary: write_state(temporary, state), optimizer=True)
        self.processes.on_rank_zero(lambda: prune(self.run.checkpoints, keep))

    def load_checkpoint(self, checkpoint: Path) -> dict[str, Any]:
        """Restore weights and optimizers; return the loop's state.

        Raises:
            UnimixerError: if a file is missing or damaged, or belongs to another model.
        """
        tensors = load_tensors(checkpoint / "optimizer.safetensors")
        if is_sharded_checkpoint(checkpoint):
            self._read(checkpoint, optimizer=True)
        elif checkpoint.name == START:  # a run that continues another begins with the file of a single process
            weights = load_tensors(checkpoint / "model.safetensors")
            load_dense(self.ranker, weights)
            self.tables.load_packed(weights, select_tensors(tensors, "sparse"))
        else:
            raise UnimixerError(
                f"{checkpoint} was written by a single process; continue it with one process, without torchrun"
            )
        for name in self.dense:
            self._restore_dense(name, select_tensors(tensors, name))
        if self.eviction is not None:
            restore_optimizer(self.eviction, select_tensors(tensors, "eviction"))
        return load_state(checkpoint / "state.json")

    def save_best(self) -> None:
        """Keep the present weights as the best."""
        self._write(self.run.sharded_best, lambda temporary: None, optimizer=False)

    def load_best(self) -> None:
        """Load the weights that validated best."""
        if self.run.sharded_best.exists():
            self._read(self.run.sharded_best, optimizer=False)
            return
        tensors = load_tensors(self.run.best_weights)  # an earlier process has consolidated them
        load_dense(self.ranker, tensors)
        self.tables.load_packed(tensors)

    def finish(self) -> None:
        """Consolidate the best weights into the file of a single process."""
        self.processes.on_rank_zero(lambda: consolidate_best(self.run))

    def _write(self, target: Path, write_more: Callable[[Path], None], *, optimizer: bool) -> None:
        temporary = Path(self.processes.on_rank_zero(lambda: _make_temporary(target)))
        write_tables(temporary, self.tables, optimizer=optimizer)
        self._save(temporary / "model.safetensors", dense_state(self.ranker).items())
        if optimizer:
            self._save(temporary / "optimizer.safetensors", self._optimizer_states())

        def complete() -> None:
            (temporary / TABLES_DESCRIPTION).write_text(describe_tables(self.tables), encoding="utf-8")
            write_more(temporary)
            flush_folder(temporary)
            replace_folder(temporary, target)

        self.processes.on_rank_zero(complete)

    def _save(self, path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
        full = gather_full(tensors, self.processes)
        self.processes.on_rank_zero(lambda: save_tensors(path, full))

    def _parameters(self, name: str) -> list[torch.nn.Parameter]:
        """List the parameters of a dense optimizer in the order in which a single process numbers them."""
        groups = dense_groups(self.ranker, self.run.recipe.optimizer).get(name, self.dense[name].param_groups)
        return [parameter for group in groups for parameter in group["params"]]

    def _optimizer_states(self) -> Iterator[tuple[str, Tensor]]:
        for name, optimizer in self.dense.items():
            for number, parameter in enumerate(self._parameters(name)):
                if parameter in optimizer.state:
                    for key, value in optimizer.state[parameter].items():
                        yield f"{name}.{number}.{key}", torch.as_tensor(value)
        if self.eviction is not None:
            yield from ((f"eviction.{key}", value) for key, value in optimizer_tensors(self.eviction).items())

    def _restore_dense(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Give every parameter of a dense optimizer this process's part of its state."""
        optimizer, parameters = self.dense[name], self._parameters(name)
        numbers = {p: number for number, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
        states = {}
        for entry, tensor in tensors.items():
            number, key = entry.split(".", 1)
            parameter = parameters[int(number)]
            states[f"{numbers[parameter]}.{key}"] = shard_like(tensor, parameter)
        restore_optimizer(optimizer, states)

    def _read(self, folder: Path, *, optimizer: bool) -> None:
        path = folder / "model.safetensors"
        tensors = load_tensors(path)
        check_weights(path, tensors, dense_state(self.ranker))
        read_tables(folder, self.tables, optimizer=optimizer)
        load_dense(self.ranker, tensors)


def dense_state(model: Ranker) -> dict[str, Tensor]:
    """Collect the weights of the dense part; every process has them whole or has parts of them."""
    reshard(model)
    parts = {name: child for name, child in model.named_children() if name != "embedding"}
    state = {f"{name}.{key}": value for name, child in parts.items() for key, value in child.state_dict().items()}
    inner = {name: child for name, child in model.embedding.named_children() if name != "tables"}
    state |= {f"embedding.{n}.{key}": v for n, child in inner.items() for key, v in child.state_dict().items()}
    return state


@torch.no_grad()
def load_dense(model: Ranker, tensors: Mapping[str, Tensor]) -> None:
    """Copy the dense part, or this process's part of it, into a model."""
    for name, own in dense_state(model).items():
        local_part(own).copy_(local_part(shard_like(tensors[name], own)))


def _make_temporary(target: Path) -> str:
    """Make a temporary folder beside the target; resuming the run removes those of killed processes."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return str(temporary)


# ---- tables ----


def write_tables(folder: Path, tables: ShardedTables, *, optimizer: bool) -> None:
    """Write the tables, and the states of their optimizer if asked; each process writes the parts that it owns."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with quietly():
        writer = HuggingFaceStorageWriter(str(folder / TABLES_FOLDER), save_distributed=True)
        save(tables.tensors(optimizer=optimizer), storage_writer=writer)


def describe_tables(tables: ShardedTables) -> str:
    """Describe the tables for those who read them later."""
    ranks = tables.processes.size
    values = {"rows": tables.num_embeddings, "width": tables.width, "rule": tables.layout.rule, "ranks": ranks}
    return json.dumps(values, indent=1) + "\n"


def read_tables(folder: Path, tables: ShardedTables, *, optimizer: bool) -> None:
    """Read what :func:`write_tables` wrote; each process reads the parts that it owns now.

    Raises:
        UnimixerError: if the tables belong to another model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _check_tables(folder, tables, optimizer=optimizer)
    with quietly():
        reader = HuggingFaceStorageReader(str(folder / TABLES_FOLDER))
        load(tables.tensors(optimizer=optimizer), storage_reader=reader)


def _check_tables(folder: Path, tables: ShardedTables, *, optimizer: bool) -> None:
    """Raise unless a folder holds the tables of this model, and the states of its optimizer if asked."""
    written, rows, width = read_tables_description(folder), tables.num_embeddings, tables.width
    for name in sorted({*rows, *written["rows"]}):
        here = f"{rows[name]} x {width[name]}" if name in rows else "nothing"
        there = f"{written['rows'][name]} x {written['width'][name]}" if name in written["rows"] else "nothing"
        if here != there:
            raise UnimixerError(
                f"{folder}: table {name!r} is {there}, this model needs {here}: it belongs to another model"
            )
    if optimizer and written["rule"] != tables.layout.rule:
        raise UnimixerError(
            f"{folder}: its tables were trained with {written['rule']}, this run has {tables.layout.rule}; "
            "keep optimizer.sparse of the run"
        )
