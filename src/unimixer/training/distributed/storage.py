"""Sharded tables on disk: torch.distributed.checkpoint in safetensors files, for any number of ranks and any plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.ranker import PACKED
from unimixer.training.distributed.embedding_kernels import FusedRule
from unimixer.training.distributed.plan import quietly
from unimixer.training.distributed.setup import first_rows

if TYPE_CHECKING:
    from unimixer.training.distributed.tables import ShardedTables

FOLDER, DESCRIPTION = "tables", "tables.json"
STATES = {"adam": ("exp_avg", "exp_avg_sq"), "rowwise_adagrad": ("sum",), "sgd": ()}
"""What the optimizer of a table keeps, by the rule, under the names that it has on one machine."""
_FUSED_NAMES = {
    "adam": {"momentum1": "exp_avg", "momentum2": "exp_avg_sq", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"},
    "rowwise_adagrad": {"momentum1": "sum", "sum": "sum"},
    "sgd": {},
}


def write_tables(folder: Path, tables: ShardedTables, *, optimizer: bool) -> None:
    """Write weights, and the state of the optimizer; all processes take part, each writes what it owns."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with quietly():
        writer = HuggingFaceStorageWriter(str(folder / FOLDER), save_distributed=True)
        save(_tensors(tables, optimizer=optimizer), storage_writer=writer)


def describe(tables: ShardedTables) -> str:
    """What a reader needs to know to take the tables apart again."""
    values = {"rows": tables.num_embeddings, "width": tables.width, "rule": tables.rule, "ranks": tables.world.size}
    return json.dumps(values, indent=1) + "\n"


def read_tables(folder: Path, tables: ShardedTables, *, optimizer: bool) -> None:
    """Read what :func:`write_tables` wrote, each process the part that it owns now.

    Raises:
        UnimixerError: if the tables are those of another model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _check(folder, tables.num_embeddings, tables.width, tables.rule if optimizer else None)
    with quietly():
        reader = HuggingFaceStorageReader(str(folder / FOLDER))
        load(_tensors(tables, optimizer=optimizer), storage_reader=reader)


def read_packed(folder: Path, *, optimizer: bool = False) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The tables as one machine has them, without other processes: one matrix a width.

    Returns:
        Weights by their names in the state dict, and the optimizer's states, ``{name of weight: {name: tensor}}``.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    found = _read_description(folder)
    rows, width, names = found["rows"], found["width"], STATES[found["rule"]] if optimizer else ()
    weights: dict[str, Tensor] = {}
    states: dict[str, dict[str, Tensor]] = {}
    for w in sorted(set(width.values())):
        total = sum(count for name, count in rows.items() if width[name] == w)
        key = PACKED.format(width=w)
        weights[key] = torch.zeros(total, w)
        states[key] = {name: torch.zeros(total) if name == "sum" else torch.zeros(total, w) for name in names}
    target: dict[str, Any] = {}
    for name, start in first_rows(rows, width).items():
        key, part = PACKED.format(width=width[name]), slice(start, start + rows[name])
        target[f"{name}.weight"] = weights[key][part]
        target |= {f"{name}.{state}": tensor[part] for state, tensor in states[key].items()}
    with quietly():
        load(target, storage_reader=HuggingFaceStorageReader(str(folder / FOLDER)), no_dist=True)
    return weights, states


@torch.no_grad()
def reset_rows(tables: ShardedTables, table: str, rows: Tensor, vectors: Tensor) -> None:
    """Give some rows of a table new vectors and clear the optimizer's state of them, each process in its own part."""
    for name, place in _tensors(tables, optimizer=True).items():
        if name.rpartition(".")[0] != table:
            continue
        for shard in place.local_shards():
            first, column = (*shard.metadata.shard_offsets, 0)[:2]
            mine = (rows >= first) & (rows < first + len(shard.tensor))
            at = (rows[mine] - first).to(shard.tensor.device)
            if name == f"{table}.weight":
                part = vectors[mine][:, column : column + shard.tensor.shape[1]]
                shard.tensor[at] = part.to(shard.tensor.device)
            else:
                shard.tensor[at] = 0


def _tensors(tables: ShardedTables, *, optimizer: bool) -> dict[str, Any]:
    """Sharded tensors by table and name, in the memory that they are used in."""
    found = {f"{name}.weight": place for name, place in tables.places.items()}
    if not optimizer:
        return found
    if isinstance(tables.optimizer, FusedRule):
        states = tables.optimizer.states()
        names = _FUSED_NAMES[tables.rule]
        for name, alias in tables.aliases.items():
            found |= {f"{name}.{names[k]}": v for k, v in states.get(alias, {}).items() if k in names}
        return found
    for name in tables.places:
        found |= {f"{name}.{state}": _beside(tables, name, state) for state in STATES[tables.rule]}
    return found


def _beside(tables: ShardedTables, name: str, state: str) -> Any:
    """A state of a table of :class:`RankAdam` as a sharded tensor that lies as its weight does."""
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor
    from torch.distributed._shard.sharded_tensor.shard import Shard

    place, optimizer = tables.places[name], tables.optimizer
    assert not isinstance(optimizer, FusedRule)
    shards = []
    for rows in optimizer.rows:
        for number, table in enumerate(rows.config.embedding_tables):
            if table.name == tables.aliases[name]:
                start, count = rows.part(number)
                tensor = optimizer.state[rows.weight][state][start : start + count]
                shards.append(Shard(tensor, table.local_metadata))
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, place.metadata(), process_group=place._process_group
    )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnimixerError(f"{path}: no such file: this was not written by several processes") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnimixerError(f"{path}: damaged ({error})") from None
    return values


def _check(folder: Path, rows: Mapping[str, int], width: Mapping[str, int], rule: str | None) -> None:
    """Raise unless a folder holds these tables, and the state of this rule."""
    found = _read_description(folder)
    for name in sorted({*rows, *found["rows"]}):
        here = f"{rows[name]} x {width[name]}" if name in rows else "nothing"
        there = f"{found['rows'][name]} x {found['width'][name]}" if name in found["rows"] else "nothing"
        if here != there:
            raise UnimixerError(
                f"{folder}: table {name!r} is {there}, this model needs {here}: it belongs to another model"
            )
    if rule is not None and found["rule"] != rule:
        raise UnimixerError(f"{folder}: its tables were trained with {found['rule']}, this run has {rule}")
